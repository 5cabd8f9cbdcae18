//! A row of figures: ours, the peer's, and how far they scatter.

use serde::Serialize;

/// Which way is better.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Better {
    /// More is better.
    Higher,
    /// Less is better.
    Lower,
}

/// One figure with its peer, as it goes into the JSON file (DESIGN section 12).
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    /// The row's name, as `tcp/bulk/mtu1500`.
    pub name: String,
    /// Our median.
    pub ours: f64,
    /// Who it is compared with.
    pub peer: Option<String>,
    /// The peer's median.
    pub theirs: Option<f64>,
    /// Unit of both.
    pub unit: &'static str,
    /// Which way is better.
    pub better: Better,
    /// Above 1: ours is better.
    pub ratio: Option<f64>,
    /// Runs of each.
    pub runs: usize,
    /// Scatter of our runs: largest less smallest, over the median.
    pub spread: f64,
    /// The ratio that is promised; not in the file.
    #[serde(skip)]
    pub floor: Option<f64>,
    /// What ours may not be beyond; not in the file.
    #[serde(skip)]
    pub limit: Option<f64>,
    /// What else was seen, for people; not in the file.
    #[serde(skip)]
    pub note: String,
}

/// Runs of one side.
#[derive(Clone, Debug, Default)]
pub struct Samples(Vec<f64>);

impl Samples {
    /// Add a run.
    pub fn push(&mut self, value: f64) {
        self.0.push(value);
    }

    /// How many.
    pub fn count(&self) -> usize {
        self.0.len()
    }

    /// The one in the middle; of an even number, the upper of the two.
    pub fn median(&self) -> f64 {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        sorted.get(sorted.len() / 2).copied().unwrap_or(f64::NAN)
    }

    /// The smallest.
    pub fn least(&self) -> f64 {
        self.0.iter().copied().fold(f64::NAN, f64::min)
    }

    /// Largest less smallest, over the median.
    pub fn spread(&self) -> f64 {
        let largest = self.0.iter().copied().fold(f64::MIN, f64::max);
        let smallest = self.0.iter().copied().fold(f64::MAX, f64::min);
        if self.0.is_empty() {
            return 0.0;
        }
        (largest - smallest) / self.median()
    }
}

/// Two sides, measured in turns so that what disturbs one disturbs the other.
#[derive(Clone, Debug, Default)]
pub struct Turns {
    /// Our runs.
    pub ours: Samples,
    /// The peer's runs.
    pub theirs: Samples,
}

impl Turns {
    /// Run both sides `runs` times, in turns.
    pub fn take(
        runs: usize,
        mut ours: impl FnMut() -> anyhow::Result<f64>,
        mut theirs: impl FnMut() -> anyhow::Result<f64>,
    ) -> anyhow::Result<Turns> {
        let mut turns = Turns::default();
        for _ in 0..runs {
            turns.theirs.push(theirs()?);
            turns.ours.push(ours()?);
        }
        Ok(turns)
    }
}

impl Row {
    /// A row of ours against a peer's.
    pub fn compared(
        name: &str,
        peer: &str,
        unit: &'static str,
        better: Better,
        turns: &Turns,
        floor: f64,
    ) -> Row {
        let (ours, theirs) = (turns.ours.median(), turns.theirs.median());
        let ratio = match better {
            Better::Higher => ours / theirs,
            Better::Lower => theirs / ours,
        };
        Row {
            name: name.to_owned(),
            ours,
            peer: Some(peer.to_owned()),
            theirs: Some(theirs),
            unit,
            better,
            ratio: Some(ratio),
            runs: turns.ours.count(),
            spread: turns.ours.spread(),
            floor: Some(floor),
            limit: None,
            note: format!("spread of theirs {:.0}%", turns.theirs.spread() * 100.0),
        }
    }

    /// A row without a peer.
    pub fn alone(name: &str, unit: &'static str, better: Better, ours: &Samples) -> Row {
        Row {
            name: name.to_owned(),
            ours: ours.median(),
            peer: None,
            theirs: None,
            unit,
            better,
            ratio: None,
            runs: ours.count(),
            spread: ours.spread(),
            floor: None,
            limit: None,
            note: String::new(),
        }
    }
}

impl Row {
    /// What is promised: a ratio at least, or a figure that ours keeps to.
    fn demand(&self) -> String {
        match (self.floor, self.limit, self.better) {
            (Some(floor), ..) => figure(floor),
            (None, Some(limit), Better::Lower) => format!("<={}", figure(limit)),
            (None, Some(limit), Better::Higher) => format!(">={}", figure(limit)),
            (None, None, _) => "-".to_owned(),
        }
    }
}

/// The rows as a table for people.
pub fn table(rows: &[Row]) -> String {
    let mut out = format!(
        "{:<22} {:>12} {:>12} {:<10} {:>6} {:>8} {:>4} {:>7}  {}\n",
        "row", "ours", "theirs", "unit", "ratio", "floor", "runs", "spread", "peer"
    );
    let optional = |value: Option<f64>| value.map_or("-".to_owned(), figure);
    for row in rows {
        out += &format!(
            "{:<22} {:>12} {:>12} {:<10} {:>6} {:>8} {:>4} {:>6.0}%  {}\n",
            row.name,
            figure(row.ours),
            optional(row.theirs),
            row.unit,
            optional(row.ratio),
            row.demand(),
            row.runs,
            row.spread * 100.0,
            row.peer.as_deref().unwrap_or("-"),
        );
        if !row.note.is_empty() {
            out += &format!("{:<22} {}\n", "", row.note);
        }
    }
    out
}

fn figure(value: f64) -> String {
    match value.abs() {
        ..10.0 => format!("{value:.2}"),
        10.0..1000.0 => format!("{value:.1}"),
        _ => format!("{value:.0}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ratio_above_one_means_ours_is_better_whichever_way_the_unit_points() {
        let turns = |ours, theirs| Turns {
            ours: Samples(vec![ours]),
            theirs: Samples(vec![theirs]),
        };
        let rate = Row::compared("r", "p", "Gbit/s", Better::Higher, &turns(3.0, 2.0), 1.0);
        let cost = Row::compared("c", "p", "us", Better::Lower, &turns(2.0, 3.0), 1.0);
        assert_eq!((rate.ratio, cost.ratio), (Some(1.5), Some(1.5)));
    }

    #[test]
    fn a_row_without_a_peer_has_null_where_the_peer_would_be() {
        let row = Row::alone("r", "octets", Better::Lower, &Samples(vec![1.0, 3.0, 2.0]));
        let json = serde_json::to_value(&row).unwrap();
        assert!(json["theirs"].is_null() && json["ratio"].is_null());
        assert_eq!(
            (json["ours"].as_f64(), json["spread"].as_f64()),
            (Some(2.0), Some(1.0))
        );
    }
}
