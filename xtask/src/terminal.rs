//! What the commands have in common towards a person: tables that fit, words for a mistyped name, errors in one line.

/// Columns to fill: those of the terminal, 80 where the output goes elsewhere.
pub(crate) fn width() -> usize {
    let terminal = console::Term::stdout();
    let columns = terminal.size_checked().filter(|_| terminal.is_term()).map_or(80, |(_, columns)| columns.into());
    // Below that nothing fits, and a terminal that does not know its size says 0.
    if columns == 0 { 80 } else { columns.max(40) }
}

/// Rows under a head, in columns.
pub(crate) struct Table {
    pub(crate) head: Vec<&'static str>,
    pub(crate) rows: Vec<Vec<String>>,
    /// Columns to leave out where they do not fit, the first of them first.
    pub(crate) extra: &'static [usize],
}

impl Table {
    /// At most `width` columns wide: without the extra columns that do not fit, and with the parts of the last column, each
    /// of which ends in a parenthesis, on lines of their own. The second text says what is not shown.
    pub(crate) fn fitted(&self, width: usize) -> (String, Option<String>) {
        let mut shown: Vec<usize> = (0..self.head.len()).collect();
        let mut left_out = Vec::new();
        let last = self.head.len().saturating_sub(1);
        let longest = |column: usize, of: &dyn Fn(&str) -> usize| {
            let cells = self.rows.iter().map(|row| of(&row[column]));
            cells.chain([self.head[column].chars().count()]).max().unwrap_or(0)
        };
        let whole = |cell: &str| cell.chars().count();
        let part = |cell: &str| cell.split("), ").map(|part| part.chars().count() + 2).max().unwrap_or(0);
        let total = |shown: &[usize], of: &dyn Fn(&str) -> usize| -> usize {
            shown.iter().map(|&column| 2 + longest(column, if column == last { of } else { &whole })).sum::<usize>() - 2
        };
        for &column in self.extra {
            if total(&shown, &part) > width {
                shown.retain(|other| *other != column);
                left_out.push(self.head[column]);
            }
        }
        let breaks = total(&shown, &whole) > width;
        let widths: Vec<usize> = shown.iter().map(|&column| longest(column, &whole)).collect();
        let mut text = String::new();
        let head: Vec<String> = self.head.iter().map(|name| name.to_string()).collect();
        for row in [&head].into_iter().chain(&self.rows) {
            let mut line = String::new();
            for (&column, width) in shown.iter().zip(&widths).filter(|(column, _)| **column != last) {
                line += &format!("{:width$}  ", row[column]);
            }
            let indent = line.chars().count();
            let cell =
                if breaks { row[last].replace("), ", &format!("),\n{:indent$}", "")) } else { row[last].clone() };
            text += (line + &cell).trim_end();
            text += "\n";
        }
        let note = (!left_out.is_empty()).then(|| format!("not shown: {}; --format csv has all", left_out.join(", ")));
        (text, note)
    }

    /// Every column.
    pub(crate) fn to_csv(&self) -> String {
        let head = self.head.iter().map(|name| csv(name)).collect::<Vec<_>>().join(",");
        let rows = self.rows.iter().map(|row| row.iter().map(|cell| csv(cell)).collect::<Vec<_>>().join(","));
        [head].into_iter().chain(rows).map(|line| line + "\n").collect()
    }
}

/// A cell of a CSV file.
pub(crate) fn csv(cell: &str) -> String {
    if cell.contains([',', '"', '\n', '\r']) { format!("\"{}\"", cell.replace('"', "\"\"")) } else { cell.to_owned() }
}

/// `; did you mean …?` for what looks like one of `known`, else nothing.
pub(crate) fn did_you_mean<'a>(name: &str, known: impl IntoIterator<Item = &'a str>) -> String {
    let name = name.to_lowercase();
    let likeness = |other: &&str| strsim::jaro_winkler(&name, &other.to_lowercase());
    let nearest = known.into_iter().max_by(|a, b| likeness(a).total_cmp(&likeness(b)));
    nearest.filter(|other| likeness(other) > 0.8).map_or_else(String::new, |it| format!("; did you mean {it}?"))
}

/// An error and its causes in one line, each once.
pub(crate) fn message(error: &anyhow::Error) -> String {
    let mut said = String::new();
    for cause in error.chain() {
        let text = cause.to_string();
        // Candle puts a backtrace into its words where RUST_BACKTRACE is set; that is for who debugs, not for who reads.
        let text = text.split("\n   0: ").next().unwrap_or_default().trim_end();
        if text.starts_with(&said) {
            said = text.to_owned();
        } else if !said.contains(text) {
            said = format!("{said}: {text}");
        }
    }
    said
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_loses_columns_and_breaks_its_last_one_to_fit() {
        let cells = |cells: [&str; 3]| cells.map(str::to_owned).to_vec();
        let rows = vec![cells(["a", "in the middle", "1 (a, b), 2 (c), 3"]), cells(["bcd", "x", "four"])];
        let table = Table { head: vec!["name", "where", "figures"], rows, extra: &[1] };
        let (text, note) = table.fitted(80);
        assert_eq!(
            text,
            "name  where          figures\na     in the middle  1 (a, b), 2 (c), 3\nbcd   x              four\n"
        );
        assert_eq!(note, None);
        let (text, note) = table.fitted(16);
        assert_eq!(text, "name  figures\na     1 (a, b),\n      2 (c),\n      3\nbcd   four\n");
        assert_eq!(note.unwrap(), "not shown: where; --format csv has all");
        assert_eq!(table.to_csv(), "name,where,figures\na,in the middle,\"1 (a, b), 2 (c), 3\"\nbcd,x,four\n");
    }

    #[test]
    fn a_near_name_is_told_and_a_far_one_is_not() {
        let known = ["float32-45nm", "int8-45nm"];
        assert_eq!(did_you_mean("Int8-45mn", known), "; did you mean int8-45nm?");
        assert_eq!(did_you_mean("solar", known), "");
    }

    #[test]
    fn an_error_says_a_thing_once() {
        let error =
            anyhow::anyhow!("a.png: no image\n   0: main\n   1: start").context("a.png: no image").context("a.png");
        assert_eq!(message(&error), "a.png: no image");
        assert_eq!(message(&anyhow::anyhow!("no space").context("run x")), "run x: no space");
    }
}
