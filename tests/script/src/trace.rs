//! What happened so far, for people and for comparing runs.

use std::fmt;
use std::time::Duration;

/// One entry.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Entry {
    /// Since the start of the script.
    pub at: Duration,
    pub what: What,
    /// In the words of a script, with everything the segment said.
    pub text: String,
    /// The same without what depends on the time.
    pub timeless: String,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum What {
    In,
    Out,
    Move,
    Call,
}

/// The entries of a run, in order.
#[derive(Clone, Debug, Default)]
pub struct Trace {
    pub entries: Vec<Entry>,
}

/// Entries shown in a report.
const SHOWN: usize = 40;

impl Trace {
    pub fn push(&mut self, at: Duration, what: What, text: String, timeless: String) {
        self.entries.push(Entry {
            at,
            what,
            text,
            timeless,
        });
    }

    /// What the stack sent.
    pub fn sent(&self) -> impl Iterator<Item = &Entry> {
        self.entries.iter().filter(|entry| entry.what == What::Out)
    }

    /// The first difference between what was sent here and in `other`, if there is one.
    pub fn differs(&self, other: &Trace, times: bool) -> Option<String> {
        let (mut here, mut there) = (self.sent(), other.sent());
        let show = |entry: Option<&Entry>| entry.map_or("nothing".to_owned(), Entry::to_string);
        loop {
            let (a, b) = (here.next(), there.next());
            let same = match (a, b) {
                (None, None) => return None,
                (Some(a), Some(b)) if times => a.text == b.text && a.at == b.at,
                (Some(a), Some(b)) => a.timeless == b.timeless,
                _ => false,
            };
            if !same {
                return Some(format!(
                    "without a move:  {}\n  with a move:     {}",
                    show(a),
                    show(b)
                ));
            }
        }
    }
}

impl fmt::Display for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mark = match self.what {
            What::In => "in ",
            What::Out => "out",
            What::Move => "~~~",
            What::Call => "   ",
        };
        write!(f, "{:>10.6}  {mark} {}", self.at.as_secs_f64(), self.text)
    }
}

impl fmt::Display for Trace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let skipped = self.entries.len().saturating_sub(SHOWN);
        if skipped > 0 {
            writeln!(f, "    ({skipped} entries before these)")?;
        }
        for entry in self.entries.iter().skip(skipped) {
            writeln!(f, "    {entry}")?;
        }
        Ok(())
    }
}
