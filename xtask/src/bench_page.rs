//! The bench's figures as tables and as a chart.

use crate::bench::{Figure, Figures, Row};
use std::fmt::Write as _;

/// Where the table of the page begins and ends.
const MARKS: [&str; 2] = ["<!-- figures: cargo xtask bench --write -->", "<!-- end of figures -->"];
/// The geometric mean that is the goal.
const MEAN_GOAL: f64 = 0.65;

/// A row with its figure: ratio, and whether the goal is met.
struct Line<'a> {
    row: &'a Row,
    figure: Figure,
    ratio: f64,
    met: &'static str,
}

/// The rows that were measured.
fn lines<'a>(rows: &'a [Row], figures: &'a Figures) -> impl Iterator<Item = Line<'a>> {
    rows.iter().filter_map(|row| {
        let figure = *figures.get(&row.name)?;
        let ratio = figure.median as f64 / row.reference as f64;
        let met = match row.goal {
            None => "-",
            Some(goal) if ratio <= goal => "yes",
            Some(_) => "no",
        };
        Some(Line { row, figure, ratio, met })
    })
}

/// The geometric mean of all ratios.
fn mean(rows: &[Row], figures: &Figures) -> f64 {
    let logs: Vec<_> = lines(rows, figures).map(|line| line.ratio.max(1e-9).ln()).collect();
    (logs.iter().sum::<f64>() / logs.len().max(1) as f64).exp()
}

/// A goal in a table.
fn goal(row: &Row) -> String {
    row.goal.map_or_else(|| "-".to_string(), |goal| format!("{goal:.2}"))
}

/// For the terminal.
pub fn table(rows: &[Row], figures: &Figures) -> String {
    let mut text = format!(
        "{:<34}{:>8}{:>8}{:>10}{:>8}{:>7}  met\n",
        "row", "median", "min", "reference", "ratio", "goal"
    );
    for Line { row, figure, ratio, met } in lines(rows, figures) {
        let Figure { median, minimum } = figure;
        let (name, reference, goal) = (&row.name, row.reference, goal(row));
        let _ = writeln!(
            text,
            "{name:<34}{median:>8}{minimum:>8}{reference:>10}{ratio:>8.3}{goal:>7}  {met}"
        );
    }
    text
}

/// The last line: the mean, and how many goals are met.
pub fn summary(rows: &[Row], figures: &Figures) -> String {
    let count = |word| lines(rows, figures).filter(|line| line.met == word).count();
    let (met, missed) = (count("yes"), count("no"));
    let mean = mean(rows, figures);
    format!(
        "geometric mean {mean:.3} (goal {MEAN_GOAL}); {met} of {} goals met, {} rows",
        met + missed,
        lines(rows, figures).count()
    )
}

/// Comma-separated values.
pub fn csv(rows: &[Row], figures: &Figures) -> String {
    let mut text = String::from("row,median,minimum,reference,ratio,goal,met\n");
    for Line { row, figure, ratio, met } in lines(rows, figures) {
        let Figure { median, minimum } = figure;
        let (name, reference, goal) = (&row.name, row.reference, goal(row));
        let _ = writeln!(text, "{name},{median},{minimum},{reference},{ratio:.4},{goal},{met}");
    }
    text
}

/// A table in Markdown, with the summary below it.
pub fn markdown(rows: &[Row], figures: &Figures) -> String {
    let mut text = String::from(
        "| row | median | minimum | reference | ratio | goal | met |\n|---|---|---|---|---|---|---|\n",
    );
    for Line { row, figure, ratio, met } in lines(rows, figures) {
        let Figure { median, minimum } = figure;
        let (name, reference, goal) = (&row.name, row.reference, goal(row));
        let _ = writeln!(
            text,
            "| {name} | {median} | {minimum} | {reference} | {ratio:.3} | {goal} | {met} |"
        );
    }
    let summary = summary(rows, figures);
    let _ = writeln!(text, "\n{}{}.", summary[..1].to_uppercase(), &summary[1..]);
    text
}

/// The page with the text between its marks replaced; `None` without marks.
pub fn replace_table(page: &str, table: &str) -> Option<String> {
    replace_between(MARKS, page, table)
}

/// The same for any marks.
pub fn replace_between([begin, end]: [&str; 2], page: &str, table: &str) -> Option<String> {
    let (head, rest) = page.split_once(begin)?;
    let (_, tail) = rest.split_once(end)?;
    Some(format!("{head}{begin}\n\n{table}\n{end}{tail}"))
}

/// Pixels of a bar of ratio 1, of the longest bar, of a line, and to the left of the bars.
const UNIT: f64 = 300.0;
const LONGEST: f64 = 600.0;
const HEIGHT: usize = 18;
const LEFT: usize = 270;

/// A bar for each row: ours in relation to the reference, which is the line at 1; a short mark is
/// the goal.
pub fn svg(rows: &[Row], figures: &Figures) -> String {
    let lines: Vec<_> = lines(rows, figures).collect();
    let (width, height) = (LEFT + LONGEST as usize + 80, (lines.len() + 3) * HEIGHT);
    let mut text = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" \
         font-family=\"sans-serif\" font-size=\"12\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n\
         <text x=\"8\" y=\"{HEIGHT}\" font-weight=\"bold\">Costs in relation to the reference \
         (line: 1.0; marks: goals)</text>\n"
    );
    for (index, line) in lines.iter().enumerate() {
        let top = (index + 2) * HEIGHT;
        let (text_y, bar) = (top + 13, (line.ratio * UNIT).clamp(1.0, LONGEST));
        let colour = if line.met == "no" { "#c0392b" } else { "#2e7d5b" };
        let _ = writeln!(
            text,
            "<text x=\"{}\" y=\"{text_y}\" text-anchor=\"end\">{}</text>\
             <rect x=\"{LEFT}\" y=\"{}\" width=\"{bar:.0}\" height=\"{}\" fill=\"{colour}\"/>\
             <text x=\"{:.0}\" y=\"{text_y}\">{:.2}</text>",
            LEFT - 8,
            line.row.name,
            top + 2,
            HEIGHT - 4,
            LEFT as f64 + bar + 6.0,
            line.ratio
        );
        if let Some(goal) = line.row.goal {
            let x = LEFT as f64 + goal * UNIT;
            let _ = writeln!(
                text,
                "<line x1=\"{x:.0}\" x2=\"{x:.0}\" y1=\"{top}\" y2=\"{}\" stroke=\"black\"/>",
                top + HEIGHT
            );
        }
    }
    let one = LEFT as f64 + UNIT;
    let bottom = (lines.len() + 2) * HEIGHT;
    let _ = writeln!(
        text,
        "<line x1=\"{one}\" x2=\"{one}\" y1=\"{}\" y2=\"{bottom}\" stroke=\"gray\" \
         stroke-dasharray=\"4\"/>\n</svg>",
        2 * HEIGHT
    );
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> (Vec<Row>, Figures) {
        let row = |name: &str, reference, goal| Row { name: name.to_string(), reference, goal };
        let figure = |median| Figure { median, minimum: median };
        let rows = vec![row("a", 100, Some(0.5)), row("b", 100, Some(0.5)), row("c", 10, None)];
        let figures = [("a", 50), ("b", 200), ("c", 10)];
        (rows, figures.map(|(name, median)| (name.to_string(), figure(median))).into())
    }

    #[test]
    fn ratios_and_goals() {
        let (rows, figures) = sample();
        assert!((mean(&rows, &figures) - 1.0).abs() < 1e-9);
        assert!(summary(&rows, &figures).contains("1 of 2 goals met, 3 rows"));
        assert!(csv(&rows, &figures).contains("b,200,200,100,2.0000,0.50,no\n"));
        assert!(markdown(&rows, &figures).contains("| c | 10 | 10 | 10 | 1.000 | - | - |"));
        assert!(table(&rows, &figures).lines().count() == 4);
        assert_eq!(svg(&rows, &figures).matches("<rect").count(), 4);
    }

    #[test]
    fn only_the_marked_part_is_replaced() {
        let [begin, end] = MARKS;
        let page = format!("x\n{begin}\nold\n{end}\ny\n");
        let new = replace_table(&page, "new\n").unwrap();
        assert_eq!(new, format!("x\n{begin}\n\nnew\n\n{end}\ny\n"));
        assert_eq!(replace_table("no marks", "new"), None);
    }
}
