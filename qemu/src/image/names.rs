//! Function names made short for an image's symbol table (`kernel/src/symbols.rs` has its layout).
//!
//! What stands beside each other most often becomes a rule, and this again and again, until nothing
//! comes often enough to be worth its three bytes: Re-Pair (Larsson and Moffat, 2000).

use std::collections::{HashMap, HashSet};

/// Codes from here on take two bytes in a name.
const LONG: u16 = 128;
/// Rules that one byte stands for.
const SHORT: u16 = 32;
/// Codes have twelve bits.
const MOST: usize = (1 << 12) - (LONG - SHORT) as usize;
/// Rules are no deeper in each other than this: the image has as much room to spell them out.
const DEEPEST: u8 = 24;
/// A pair that comes less often is no rule.
const OFTEN: usize = 4;
/// Rules while they are made have numbers from here on, below are characters.
const RULES: u16 = 256;

type Pair = [u16; 2];

/// The codes of each name, and the rules.
pub fn shorten<'a>(names: impl Iterator<Item = &'a str>) -> (Vec<Vec<u8>>, Vec<[u8; 3]>) {
    let mut names: Vec<Vec<u16>> = names.map(characters).collect();
    let mut rules: Vec<Pair> = Vec::new();
    let mut depths: Vec<u8> = Vec::new();
    loop {
        let depth = |code: u16| {
            code.checked_sub(RULES)
                .map_or(0, |n| depths[usize::from(n)])
        };
        let deep = |pair: &Pair| 1 + depth(pair[0]).max(depth(pair[1]));
        let mut pairs = frequent(&names);
        pairs.retain(|pair| deep(pair) <= DEEPEST);
        pairs.truncate(MOST - rules.len());
        if pairs.is_empty() {
            break;
        }
        let first = RULES + rules.len() as u16;
        let more: Vec<u8> = pairs.iter().map(deep).collect();
        let made: HashMap<Pair, u16> = pairs.iter().copied().zip(first..).collect();
        for name in &mut names {
            replace(name, &made);
        }
        depths.extend(more);
        rules.extend(pairs);
    }
    finish(&names, &rules)
}

/// A name's characters, what is not of ASCII's as a question mark.
fn characters(name: &str) -> Vec<u16> {
    let code = |c: char| match c {
        ' '..='\x7f' => c as u16,
        _ => u16::from(b'?'),
    };
    name.chars().map(code).collect()
}

/// Pairs that come about as often as the most frequent one and have nothing in common.
fn frequent(names: &[Vec<u16>]) -> Vec<Pair> {
    let mut counts: HashMap<Pair, usize> = HashMap::new();
    for pair in names.iter().flat_map(|name| name.array_windows()) {
        *counts.entry(*pair).or_default() += 1;
    }
    let most = counts.values().copied().max().unwrap_or_default();
    let enough = OFTEN.max(most - most / 8);
    let mut pairs: Vec<(usize, Pair)> = counts
        .into_iter()
        .filter(|(_, count)| *count >= enough)
        .map(|(pair, count)| (count, pair))
        .collect();
    pairs.sort_unstable_by(|a, b| b.cmp(a));
    let mut used = HashSet::new();
    let mut apart = |pair: &Pair| {
        let free = pair.iter().all(|code| !used.contains(code));
        if free {
            used.extend(*pair);
        }
        free
    };
    let pairs = pairs.into_iter().map(|(_, pair)| pair);
    pairs.filter(|pair| apart(pair)).collect()
}

fn replace(name: &mut Vec<u16>, made: &HashMap<Pair, u16>) {
    let mut to = 0;
    let mut from = 0;
    while from < name.len() {
        let pair = name.get(from..).and_then(|rest| rest.first_chunk());
        let (code, taken) = match pair.and_then(|pair| made.get(pair)) {
            Some(rule) => (*rule, 2),
            None => (name[from], 1),
        };
        name[to] = code;
        to += 1;
        from += taken;
    }
    name.truncate(to);
}

/// Numbers the rules, those that names have most often first, and writes all of it.
fn finish(names: &[Vec<u16>], rules: &[Pair]) -> (Vec<Vec<u8>>, Vec<[u8; 3]>) {
    let mut order: Vec<usize> = (0..rules.len()).collect();
    let mut uses = vec![0usize; rules.len()];
    for rule in names.iter().flatten().filter_map(|c| c.checked_sub(RULES)) {
        uses[usize::from(rule)] += 1;
    }
    order.sort_by_key(|rule| std::cmp::Reverse(uses[*rule]));
    let mut codes = vec![0; rules.len()];
    for (number, rule) in (0..).zip(&order) {
        codes[*rule] = match number {
            0..SHORT => number,
            _ => number - SHORT + LONG,
        };
    }
    let code = |old: u16| match old.checked_sub(RULES) {
        None => old,
        Some(rule) => codes[usize::from(rule)],
    };
    let bytes = |name: &Vec<u16>| {
        let mut bytes = Vec::new();
        for code in name.iter().map(|old| code(*old)) {
            match code.checked_sub(LONG) {
                None => bytes.push(code as u8),
                Some(far) => bytes.extend([LONG as u8 + (far >> 8) as u8, far as u8]),
            }
        }
        bytes
    };
    let pack = |rule: &usize| {
        let [a, b] = rules[*rule].map(code);
        [a as u8, (a >> 8 | b << 4) as u8, (b >> 4) as u8]
    };
    (
        names.iter().map(bytes).collect(),
        order.iter().map(pack).collect(),
    )
}

/// Appends a number, seven bits to a byte.
pub fn put_number(out: &mut Vec<u8>, mut number: u32) {
    while number >= 0x80 {
        out.push(number as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Spells out one code as the kernel does.
    fn spell(code: u16, rules: &[[u8; 3]], out: &mut String, depth: u8) {
        assert!(depth <= DEEPEST, "the kernel would give up");
        if (SHORT..LONG).contains(&code) {
            return out.push(code as u8 as char);
        }
        let number = if code < SHORT {
            code
        } else {
            code - LONG + SHORT
        };
        let [a, b, c] = rules[usize::from(number)].map(u16::from);
        spell(a | (b & 0xf) << 8, rules, out, depth + 1);
        spell(b >> 4 | c << 4, rules, out, depth + 1);
    }

    #[test]
    fn names_are_put_together_again_from_rules() {
        let long = "abcd".repeat(1000);
        let mut names: Vec<String> = (0..3000)
            .map(|n| format!("a::f{n}<b::c{}>", n * n))
            .collect();
        names.extend(["<a::b<T> as c::D>::run", "", &long].map(String::from));
        let (codes, rules) = shorten(names.iter().map(String::as_str));
        assert!(rules.len() > SHORT.into() && rules.len() <= MOST);
        for (name, codes) in names.iter().zip(&codes) {
            let mut spelt = String::new();
            let mut codes = codes.iter().copied().map(u16::from);
            while let Some(first) = codes.next() {
                let code = match first.checked_sub(LONG) {
                    None => first,
                    Some(high) => LONG + (high << 8) + codes.next().unwrap(),
                };
                spell(code, &rules, &mut spelt, 0);
            }
            assert_eq!(&spelt, name);
        }
        let (before, after): (usize, usize) =
            names.iter().zip(&codes).fold((0, 0), |sum, (name, codes)| {
                (sum.0 + name.len(), sum.1 + codes.len())
            });
        assert!(after + 3 * rules.len() < before / 2, "{before} {after}");
    }

    #[test]
    fn other_alphabets_become_question_marks() {
        let (codes, rules) = shorten(["\u{fc}n\u{ef}x\n"].into_iter());
        assert_eq!((&codes[0][..], rules.len()), (&b"?n?x?"[..], 0));
    }
}
