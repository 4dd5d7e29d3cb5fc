//! [`Confusion`]: which class was taken for which.

use std::fmt::Write;

use serde_json::{Value, json};

use crate::{Error, Result};

/// How often images of each class were taken for each class, by the readout over all timesteps.
///
/// ```
/// use lmht_train::Confusion;
///
/// let mut confusion = Confusion::new(2);
/// for (label, answer) in [(0, Some(0)), (0, Some(1)), (1, Some(1))] {
///     confusion.count(label, answer)?;
/// }
/// assert_eq!(confusion.taken_for(0, 1), 1);
/// assert_eq!(confusion.accuracy(0), Some(0.5));
/// let names = ["cat", "dog"].map(String::from);
/// assert_eq!(confusion.to_csv(Some(&names)), "class,cat,dog,no answer\ncat,1,1,0\ndog,0,1,0\n");
/// # Ok::<(), lmht_train::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Confusion {
    n_classes: usize,
    /// A row for each class, a column for each answer, and one for none: logits that are not numbers.
    counts: Vec<u64>,
}

impl Confusion {
    /// Of no image yet.
    pub fn new(n_classes: usize) -> Self {
        Self { n_classes, counts: vec![0; n_classes * (n_classes + 1)] }
    }

    /// Counts an image of the class `label` that was taken for `answer`, or for nothing.
    ///
    /// # Errors
    /// [`Error::Config`] for a class that is not there.
    pub fn count(&mut self, label: usize, answer: Option<usize>) -> Result<()> {
        let answer = answer.unwrap_or(self.n_classes);
        if label >= self.n_classes || answer > self.n_classes {
            return Err(Error::Config(format!(
                "expected classes below {}, got an image of class {label} with the answer {answer}",
                self.n_classes
            )));
        }
        self.counts[label * (self.n_classes + 1) + answer] += 1;
        Ok(())
    }

    /// Number of classes.
    pub fn n_classes(&self) -> usize {
        self.n_classes
    }

    /// The images of `label` that were taken for `answer`; 0 for a class that is not there.
    pub fn taken_for(&self, label: usize, answer: usize) -> u64 {
        if answer < self.n_classes { self.row(label).get(answer).copied().unwrap_or(0) } else { 0 }
    }

    /// The images of a class.
    pub fn n_images(&self, label: usize) -> u64 {
        self.row(label).iter().sum()
    }

    /// Share of the images of a class that were recognized, 0..1; nothing for a class without images.
    pub fn accuracy(&self, label: usize) -> Option<f64> {
        let n = self.n_images(label);
        (n > 0).then(|| self.taken_for(label, label) as f64 / n as f64)
    }

    fn row(&self, label: usize) -> &[u64] {
        let width = self.n_classes + 1;
        self.counts.get(label * width..(label + 1) * width).unwrap_or_default()
    }

    /// Rows are the classes of the images, columns the answers. The last column counts images whose logits are not numbers.
    pub fn to_csv(&self, names: Option<&[String]>) -> String {
        let quoted = |name: String| {
            let is_plain = !name.contains([',', '"', '\n', '\r']);
            if is_plain { name } else { format!("\"{}\"", name.replace('"', "\"\"")) }
        };
        let names: Vec<String> = (0..self.n_classes).map(|class| quoted(class_name(class, names))).collect();
        let mut text = format!("class,{},no answer\n", names.join(","));
        for (class, name) in names.iter().enumerate() {
            let row: Vec<String> = self.row(class).iter().map(u64::to_string).collect();
            let _ = writeln!(text, "{name},{}", row.join(","));
        }
        text
    }

    /// `classes`: name, images and accuracy of each; `matrix`: rows are classes, columns answers; `no_answer`: images of each
    /// class whose logits are not numbers.
    pub fn to_json(&self, names: Option<&[String]>) -> Value {
        let all = || 0..self.n_classes;
        let classes = all().map(|class| {
            json!({ "name": class_name(class, names), "n_images": self.n_images(class), "top1": self.accuracy(class) })
        });
        json!({
            "classes": classes.collect::<Vec<_>>(),
            "matrix": all().map(|class| &self.row(class)[..self.n_classes]).collect::<Vec<_>>(),
            "no_answer": all().map(|class| self.row(class)[self.n_classes]).collect::<Vec<_>>(),
        })
    }

    /// For a terminal of `width` columns: the accuracy of each class and what it was taken for most often, then the matrix if
    /// it fits. Of more than 40 classes the 20 that are recognized least.
    pub fn to_text(&self, names: Option<&[String]>, width: usize) -> String {
        const ALL: usize = 40;
        let mut classes: Vec<usize> = (0..self.n_classes).filter(|class| self.n_images(*class) > 0).collect();
        let mut text = String::new();
        if classes.len() > ALL {
            let accuracy = |class: &usize| self.accuracy(*class).unwrap_or(0.);
            classes.sort_by(|a, b| accuracy(a).total_cmp(&accuracy(b)));
            let _ = writeln!(text, "the 20 classes of {} that are recognized least:", classes.len());
            classes.truncate(20);
        }
        let digits = self.n_classes.saturating_sub(1).to_string().len();
        let label = |class: usize| match names.and_then(|names| names.get(class)) {
            Some(name) => format!("{class:digits$} {}", fitted(name, 20)),
            None => format!("{class:digits$}"),
        };
        let labels: Vec<String> = classes.iter().map(|class| label(*class)).collect();
        let column = labels.iter().map(|label| label.chars().count()).max().unwrap_or(0).max(5);
        let _ = writeln!(text, "{:column$}  images  top-1 %  taken for", "class");
        for (&class, label) in classes.iter().zip(&labels) {
            let n = self.n_images(class);
            let mut line = format!("{label:column$}  {n:>6}  {:>7.2}", 100. * self.accuracy(class).unwrap_or(0.));
            let mut others: Vec<(u64, usize)> = (0..=self.n_classes)
                .map(|answer| (self.row(class)[answer], answer))
                .filter(|(count, answer)| *count > 0 && *answer != class)
                .collect();
            others.sort_by_key(|(count, answer)| (std::cmp::Reverse(*count), *answer));
            for (at, (count, answer)) in others.into_iter().take(3).enumerate() {
                let name = if answer == self.n_classes { "nothing".into() } else { class_name(answer, names) };
                let part = format!("{}{} {count}", if at == 0 { "  " } else { ", " }, fitted(&name, 20));
                if line.chars().count() + part.chars().count() > width {
                    break;
                }
                line += &part;
            }
            text += &(line + "\n");
        }
        let cell = self.counts.iter().max().unwrap_or(&0).to_string().len().max(digits) + 1;
        if column + 2 + self.n_classes * cell > width || classes.len() < self.n_classes {
            return text;
        }
        let _ = write!(text, "\n{:column$}  ", "");
        (0..self.n_classes).for_each(|answer| _ = write!(text, "{answer:>cell$}"));
        text += "  <- taken for\n";
        if column + 2 + self.n_classes * cell + 14 > width {
            text.truncate(text.len() - "  <- taken for\n".len());
            text += "\n";
        }
        for (&class, label) in classes.iter().zip(&labels) {
            let _ = write!(text, "{label:column$}  ");
            (0..self.n_classes).for_each(|answer| _ = write!(text, "{:>cell$}", self.taken_for(class, answer)));
            text += "\n";
        }
        text
    }

    /// A picture: a row for each class, a column for each answer, darker the more of the class's images.
    pub fn to_svg(&self, names: Option<&[String]>) -> String {
        let n = self.n_classes;
        let (side, is_small) = if n <= 30 { (28, true) } else { ((1200 / n).max(2), false) };
        let margin = if is_small { 150 } else { 20 };
        let size = margin + n * side + 10;
        let mut svg = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {size} {size}\" font-family=\"sans-serif\" \
             font-size=\"11\">\n<rect width=\"{size}\" height=\"{size}\" fill=\"#fff\"/>\n<text x=\"4\" y=\"14\">class \
             (rows) taken for (columns)</text>\n"
        );
        for class in 0..n {
            let (at, total) = (margin + class * side, self.n_images(class).max(1) as f64);
            let name = escaped(&fitted(&class_name(class, names), 18));
            if is_small {
                let middle = at + side / 2 + 4;
                let _ = writeln!(svg, "<text x=\"{}\" y=\"{middle}\" text-anchor=\"end\">{name}</text>", margin - 6);
                let (x, y) = (middle, margin - 6);
                let _ = writeln!(svg, "<text transform=\"translate({x} {y}) rotate(-90)\">{name}</text>");
            }
            for answer in (0..n).filter(|answer| self.taken_for(class, *answer) > 0) {
                let (count, x) = (self.taken_for(class, answer), margin + answer * side);
                let share = count as f64 / total;
                let color = if answer == class { "#1b6ca8" } else { "#c0392b" };
                let said =
                    escaped(&format!("{} taken for {}: {count}", class_name(class, names), class_name(answer, names)));
                let _ = writeln!(
                    svg,
                    "<rect x=\"{x}\" y=\"{at}\" width=\"{side}\" height=\"{side}\" fill=\"{color}\" \
                     fill-opacity=\"{share:.3}\"><title>{said}</title></rect>"
                );
                if is_small {
                    let ink = if share > 0.5 { "#fff" } else { "#000" };
                    let (x, y) = (x + side / 2, at + side / 2 + 4);
                    let _ =
                        writeln!(svg, "<text x=\"{x}\" y=\"{y}\" text-anchor=\"middle\" fill=\"{ink}\">{count}</text>");
                }
            }
        }
        let edge = n * side;
        svg + &format!(
            "<rect x=\"{margin}\" y=\"{margin}\" width=\"{edge}\" height=\"{edge}\" fill=\"none\" stroke=\"#888\"/>\n</svg>\n"
        )
    }
}

/// The name of a class, its number where it has none; nothing in it can move a terminal.
fn class_name(class: usize, names: Option<&[String]>) -> String {
    let name = names.and_then(|names| names.get(class));
    name.map_or_else(|| class.to_string(), |name| name.chars().filter(|c| !c.is_control()).collect())
}

/// At most `width` characters, none of which moves a terminal.
fn fitted(name: &str, width: usize) -> String {
    let mut name: Vec<char> = name.chars().filter(|c| !c.is_control()).collect();
    if name.len() > width {
        name.truncate(width - 1);
        name.push('…');
    }
    name.into_iter().collect()
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(n_classes: usize, pairs: &[(usize, Option<usize>)]) -> Confusion {
        let mut confusion = Confusion::new(n_classes);
        pairs.iter().for_each(|(label, answer)| confusion.count(*label, *answer).unwrap());
        confusion
    }

    #[test]
    fn what_has_no_answer_is_wrong_and_counted() {
        let confusion = of(3, &[(1, Some(1)), (1, None), (1, Some(2)), (1, Some(1))]);
        assert_eq!((confusion.n_images(1), confusion.accuracy(1)), (4, Some(0.5)));
        assert_eq!((confusion.n_images(0), confusion.accuracy(0)), (0, None));
        // The column behind the last class is nobody's answer, and no first cell of the next row either.
        assert_eq!((confusion.taken_for(1, 3), confusion.taken_for(7, 0)), (0, 0));
        assert_eq!(confusion.to_json(None)["no_answer"], json!([0, 1, 0]));
        assert!(confusion.to_text(None, 80).contains("2 1, nothing 1"), "{}", confusion.to_text(None, 80));
        assert!(Confusion::new(3).count(3, None).is_err() && Confusion::new(3).count(0, Some(4)).is_err());
    }

    #[test]
    fn tables_fit_the_width() {
        let names: Vec<String> = (0..100).map(|class| format!("a rather long name of class {class}")).collect();
        for n in [2, 10, 25, 100] {
            let pairs: Vec<_> = (0..n).flat_map(|class| (0..n).map(move |answer| (class, Some(answer)))).collect();
            let confusion = of(n, &pairs);
            for (width, names) in [(80, Some(names.as_slice())), (80, None), (140, None), (60, Some(&names))] {
                let text = confusion.to_text(names, width);
                assert!(text.lines().all(|line| line.chars().count() <= width), "{n} {width}: {text}");
            }
        }
        // Ten classes have their matrix in 80 columns.
        let text = of(10, &(0..10).map(|class| (class, Some(9 - class))).collect::<Vec<_>>()).to_text(Some(&names), 80);
        assert_eq!(text.lines().count(), 1 + 10 + 1 + 1 + 10, "{text}");
    }

    #[test]
    fn names_are_text_in_every_form() {
        let names = ["a,\"b\"", "<c>&\u{1b}[2J"].map(String::from);
        let confusion = of(2, &[(0, Some(1)), (1, Some(1))]);
        let csv = confusion.to_csv(Some(&names));
        assert!(csv.contains("\n\"a,\"\"b\"\"\",0,1,0\n") && !csv.contains('\u{1b}'), "{csv:?}");
        let svg = confusion.to_svg(Some(&names));
        assert!(svg.contains("&lt;c&gt;&amp;[2J") && !svg.contains("<c>"), "{svg}");
        assert_eq!(svg.matches("<title>").count(), 2);
    }
}
