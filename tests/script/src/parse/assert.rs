//! Assertions: `check key [test] value, …` and `counter name [test] value`.

use std::time::Duration;

use super::Result;
use super::values::{integer, span};
use crate::script::{Check, Test, Wanted};

/// How far a time may be off where no tolerance is said.
const TOLERANCE: Duration = Duration::from_millis(1);

fn parse_test(word: &str) -> Option<Test> {
    Some(match word {
        "=" | "==" => Test::Equal,
        "!=" => Test::NotEqual,
        "<" => Test::Less,
        "<=" => Test::AtMost,
        ">" => Test::Greater,
        ">=" => Test::AtLeast,
        _ => return None,
    })
}

pub(super) fn parse(text: &str) -> Result<Vec<Check>> {
    text.split(',').map(|part| parse_one(part.trim())).collect()
}

fn parse_one(text: &str) -> Result<Check> {
    let words: Vec<&str> = text.split_whitespace().collect();
    let (key, test, value) = match words[..] {
        [key, value] => (key, Test::Equal, value),
        [key, test, value] => {
            let test = parse_test(test).ok_or(format!("`{test}` is no comparison"))?;
            (key, test, value)
        }
        _ => {
            return Err(format!(
                "`{text}`: an assertion is KEY VALUE or KEY TEST VALUE"
            ));
        }
    };
    if !crate::check::is_key(key) {
        return Err(format!("`{key}` is nothing that can be checked"));
    }
    Ok(Check {
        key: key.to_owned(),
        test,
        wanted: parse_wanted(value)?,
    })
}

fn parse_wanted(text: &str) -> Result<Wanted> {
    if let Some(count) = text.strip_suffix("mss") {
        let count = count
            .parse()
            .map_err(|_| format!("`{text}` is no number of segments"))?;
        return Ok(Wanted::Segments(count));
    }
    if let Ok(number) = integer(text) {
        return Ok(Wanted::Number(number, number));
    }
    if let Some((low, high)) = text.split_once("..")
        && let (Ok(low), Ok(high)) = (integer(low), integer(high))
    {
        return Ok(Wanted::Number(low, high));
    }
    if text.starts_with(|first: char| first.is_ascii_digit()) {
        let (low, high) = span(text, TOLERANCE)?;
        return Ok(Wanted::Time(low, high));
    }
    Ok(Wanted::Word(text.to_owned()))
}

/// `[test] value` of a counter.
pub(super) fn counter(words: &[&str]) -> Result<(Test, u64)> {
    let (test, value) = match words {
        [value] => (Test::Equal, value),
        [test, value] => (
            parse_test(test).ok_or(format!("`{test}` is no comparison"))?,
            value,
        ),
        _ => return Err("counter NAME [TEST] VALUE".into()),
    };
    let value =
        u64::try_from(integer(value)?).map_err(|_| "a counter is never negative".to_owned())?;
    Ok((test, value))
}
