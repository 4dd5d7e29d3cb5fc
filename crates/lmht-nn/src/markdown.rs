//! Text from elsewhere in Markdown: names of classes, layers, models and data sets, paths, commands.
//!
//! Whoever shares a model folder or a data set chooses these names, and a report is shown where Markdown and HTML act. Here
//! every character comes out as itself, and what moves a terminal or ends a line becomes a space.

/// Text for a paragraph or the cell of a table.
///
/// ```
/// assert_eq!(lmht_nn::markdown::text("a|b <img>\n# c"), r"a\|b &lt;img&gt; # c");
/// assert_eq!(lmht_nn::markdown::text("layer1.0.conv1"), "layer1.0.conv1");
/// ```
pub fn text(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => escaped += "&amp;",
            '<' => escaped += "&lt;",
            '>' => escaped += "&gt;",
            '\\' | '`' | '*' | '_' | '[' | ']' | '|' | '~' | '$' => escaped.extend(['\\', c]),
            c => escaped.push(if c.is_control() { ' ' } else { c }),
        }
    }
    escaped
}

/// Text as code, in a paragraph or the cell of a table.
///
/// ```
/// assert_eq!(lmht_nn::markdown::code("train a.toml"), "`train a.toml`");
/// assert_eq!(lmht_nn::markdown::code("a`|b"), r"`` a`\|b ``");
/// ```
pub fn code(text: &str) -> String {
    // A bar ends a cell even in code; the backslash is taken away with the table.
    let text: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    let text = text.replace('|', "\\|");
    let fence = "`".repeat(1 + longest_run(&text));
    if fence.len() == 1 { format!("`{text}`") } else { format!("{fence} {text} {fence}") }
}

/// Text as a block of code in a language.
///
/// ```
/// assert_eq!(lmht_nn::markdown::block("json", "{}\n"), "```json\n{}\n```\n");
/// ```
pub fn block(language: &str, text: &str) -> String {
    let fence = "`".repeat(3.max(1 + longest_run(text)));
    format!("{fence}{language}\n{}\n{fence}\n", text.trim_end())
}

/// How many backticks follow each other at most.
fn longest_run(text: &str) -> usize {
    text.split(|c| c != '`').map(str::len).max().unwrap_or(0)
}
