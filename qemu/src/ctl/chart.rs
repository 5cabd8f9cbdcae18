//! The boot chart of an instance (`GET /boot`), as text and as a picture.

use anyhow::{Context, Result, ensure};

use crate::vm::BootStage;

/// Reads an answer: a line for each stage, with when it was over.
pub fn parse(answer: &str) -> Result<Vec<BootStage>> {
    let line = |line| serde_json::from_str(line).context("the instance's chart is not understood");
    let stages: Vec<BootStage> = answer.lines().map(line).collect::<Result<_>>()?;
    ensure!(!stages.is_empty(), "the instance's chart is empty");
    Ok(stages)
}

/// Each stage with its begin and its end.
fn spans(stages: &[BootStage]) -> impl Iterator<Item = (&str, u64, u64)> {
    let begins = std::iter::once(0).chain(stages.iter().map(|stage| stage.us));
    let spans = begins.zip(stages);
    spans.map(|(begin, stage)| (&*stage.stage, begin.min(stage.us), stage.us))
}

fn total(stages: &[BootStage]) -> u64 {
    stages.last().map_or(1, |stage| stage.us.max(1))
}

/// The chart for a terminal: a line for each stage, with a bar where it was.
pub fn text(stages: &[BootStage]) -> String {
    const WIDTH: u64 = 50;
    let total = total(stages);
    let mut text = format!("  {:<10} {:>9} {:>9}\n", "stage", "took ms", "at ms");
    for (name, begin, end) in spans(stages) {
        let ms = |us| us as f64 / 1e3;
        let [from, to] = [begin, end].map(|us| (us * WIDTH / total) as usize);
        let bar = "#".repeat(to - from);
        let bar = if bar.is_empty() { "." } else { &bar };
        let (took, at) = (ms(end - begin), ms(end));
        text += &format!("  {name:<10} {took:>9.3} {at:>9.3} {:from$}{bar}\n", "");
    }
    text
}

/// The chart as SVG.
pub fn svg(stages: &[BootStage]) -> String {
    const ROW: usize = 20;
    const LEFT: f64 = 180.0;
    const WIDTH: f64 = 800.0;
    let total = total(stages);
    let height = (stages.len() + 2) * ROW;
    let all = LEFT + WIDTH + 20.0;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{all}\" height=\"{height}\" \
         font-family=\"monospace\" font-size=\"12\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"#fbfaf5\"/>\n\
         <text x=\"10\" y=\"15\">ready after {:.3} ms</text>\n",
        total as f64 / 1e3
    );
    for (row, (name, begin, end)) in spans(stages).enumerate() {
        let y = (row + 1) * ROW;
        let [x, right] = [begin, end].map(|us| LEFT + us as f64 * WIDTH / total as f64);
        let took = (end - begin) as f64 / 1e3;
        svg += &format!(
            "<g><title>{name}: {took:.3} ms</title><text x=\"10\" y=\"{}\">{name:<10} {took:>8.3} ms</text>\
             <rect x=\"{x:.1}\" y=\"{}\" width=\"{:.1}\" height=\"{}\" fill=\"#d9773a\"/></g>\n",
            y + 15,
            y + 3,
            (right - x).max(1.0),
            ROW - 5,
        );
    }
    svg + "</svg>\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    const ANSWER: &str = "{\"stage\":\"entry\",\"us\":500}\n{\"stage\":\"acpi\",\"us\":2000}\n";

    #[test]
    fn a_stage_begins_where_the_one_before_it_ends() {
        let stages = parse(ANSWER).unwrap();
        let text = text(&stages);
        let lines: Vec<&str> = text.lines().collect();
        assert!(
            lines[1].contains("entry") && lines[1].contains("0.500"),
            "{text}"
        );
        assert!(lines[2].contains("1.500     2.000 "), "{text}");
        assert_eq!(lines[2].matches('#').count(), 38);
        let svg = svg(&stages);
        assert!(svg.contains("<title>acpi: 1.500 ms</title>"));
        assert!(
            svg.contains("x=\"380.0\"") && svg.contains("width=\"600.0\""),
            "{svg}"
        );
    }

    #[test]
    fn what_is_no_chart_is_refused() {
        assert!(parse("").is_err());
        assert!(parse("{\"stage\":5}").is_err());
        let back = parse("{\"stage\":\"a\",\"us\":9}\n{\"stage\":\"b\",\"us\":3}").unwrap();
        assert!(text(&back).contains('b') && svg(&back).contains("</svg>"));
    }
}
