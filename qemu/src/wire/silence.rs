//! How long the client heard nothing: around moves, and otherwise.

/// How long after a move's reported end a silence still counts as that move's.
pub const AFTERMATH: u64 = 250_000_000;
/// How long after a move's reported end the stream counts as disturbed.
const SETTLE: u64 = 20_000_000;

/// A move, in nanoseconds of the trace's clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MoveWindow {
    /// When it was commanded.
    pub begin: u64,
    /// When it was reported to be finished.
    pub end: u64,
}

/// Silences of a stream of data segments, in nanoseconds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Silences {
    /// The longest gap at each move, in the order of the moves.
    pub at_moves: Vec<u64>,
    /// The gaps that no move touched, sorted.
    pub steady: Vec<u64>,
}

/// Measures the gaps between data segments that arrived at `times` (sorted).
///
/// A move's silence is the longest gap that has a part in the time from the command to
/// [`AFTERMATH`] after its reported end, or to the next command if that is earlier. Steady gaps are
/// those that begin and end outside of all moves, each with some time to settle.
pub fn measure(times: &[u64], moves: &[MoveWindow]) -> Silences {
    let mut silences = Silences {
        at_moves: vec![0; moves.len()],
        steady: Vec::new(),
    };
    let mut first = 0;
    for gap in times.windows(2) {
        let &[from, to] = gap else { continue };
        let length = to.saturating_sub(from);
        let mut disturbed = false;
        while moves.get(first).is_some_and(|m| m.end + AFTERMATH < from) {
            first += 1;
        }
        for (index, this) in moves.iter().enumerate().skip(first) {
            if this.begin > to {
                break;
            }
            let next = moves.get(index + 1).map_or(u64::MAX, |m| m.begin);
            let until = (this.end + AFTERMATH).min(next.max(this.end));
            if from <= until
                && let Some(longest) = silences.at_moves.get_mut(index)
            {
                *longest = length.max(*longest);
            }
            disturbed |= from <= this.end + SETTLE;
        }
        if !disturbed {
            silences.steady.push(length);
        }
    }
    silences.steady.sort_unstable();
    silences
}

/// The value below which the share `q` of sorted values lies (nearest rank); 0 without values.
pub fn quantile(sorted: &[u64], q: f64) -> u64 {
    let rank = (q * sorted.len() as f64).ceil() as usize;
    sorted
        .get(rank.saturating_sub(1).min(sorted.len().saturating_sub(1)))
        .copied()
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    /// A segment each millisecond from 0 to 1 s, but none between `quiet.0` and `quiet.1`.
    fn stream(quiet: (u64, u64)) -> Vec<u64> {
        (0..=1000)
            .filter(|ms| *ms <= quiet.0 || *ms >= quiet.1)
            .map(|ms| ms * MS)
            .collect()
    }

    #[test]
    fn a_gap_at_a_move_is_the_moves_and_not_steady() {
        let window = MoveWindow {
            begin: 495 * MS,
            end: 505 * MS,
        };
        let silences = measure(&stream((490, 530)), &[window]);
        assert_eq!(silences.at_moves, [40 * MS]);
        assert!(silences.steady.iter().all(|gap| *gap == MS));
    }

    #[test]
    fn a_stall_that_follows_a_move_counts_as_its() {
        let window = MoveWindow {
            begin: 495 * MS,
            end: 505 * MS,
        };
        let silences = measure(&stream((600, 850)), &[window]);
        assert_eq!(silences.at_moves, [250 * MS]);
    }

    #[test]
    fn a_gap_far_from_moves_is_steady() {
        let window = MoveWindow {
            begin: 100 * MS,
            end: 105 * MS,
        };
        let silences = measure(&stream((600, 640)), &[window]);
        assert_eq!(silences.at_moves, [MS]);
        assert_eq!(silences.steady.last(), Some(&(40 * MS)));
    }

    #[test]
    fn the_next_command_ends_a_moves_window() {
        let moves = [
            MoveWindow {
                begin: 100 * MS,
                end: 105 * MS,
            },
            MoveWindow {
                begin: 150 * MS,
                end: 155 * MS,
            },
        ];
        let silences = measure(&stream((160, 200)), &moves);
        assert_eq!(silences.at_moves, [MS, 40 * MS]);
    }

    #[test]
    fn quantiles_are_nearest_ranks() {
        let values: Vec<u64> = (1..=100).collect();
        assert_eq!((quantile(&values, 0.5), quantile(&values, 0.99)), (50, 99));
        assert_eq!((quantile(&values, 1.0), quantile(&values, 0.0)), (100, 1));
        assert_eq!(quantile(&[], 0.5), 0);
    }
}
