//! Every target with its seeds, with simple changes of them, and with everything a fuzzer ever
//! found worth keeping.

use std::path::Path;

use godwit_fuzz::{TARGETS, Target, corpus};

/// The input is named before it is run, so that a failure says which it was.
fn run(target: Target, what: &str, input: &[u8]) {
    let result = std::panic::catch_unwind(|| (target.run)(input));
    assert!(
        result.is_ok(),
        "target {}, input {what} ({} octets)",
        target.name,
        input.len()
    );
}

/// The same input with one thing changed: cut short, an octet altered, a piece doubled.
fn changed(seed: &[u8], number: u64) -> Vec<u8> {
    let mut random = number.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut below = |bound: usize| {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        (random % bound.max(1) as u64) as usize
    };
    let mut input = seed.to_vec();
    for _ in 0..=number % 3 {
        if input.is_empty() {
            break;
        }
        let at = below(input.len());
        match below(8) {
            0 => input.truncate(at),
            1 => {
                let piece = input[at..].to_vec();
                input.extend(piece);
            }
            2 => input[at] = [0, 1, 0x7f, 0x80, 0xff][below(5)],
            _ => input[at] ^= 1 << below(8),
        }
    }
    input
}

#[test]
fn every_seed_and_many_changes_of_it_are_survived() {
    for target in TARGETS {
        let seeds = (target.seeds)();
        assert!(!seeds.is_empty(), "target {} has seeds", target.name);
        for (index, seed) in seeds.iter().enumerate() {
            run(target, &format!("seed {index}"), seed);
            let changes = 3_000 / seeds.len().min(20) as u64;
            for number in 1..=changes {
                let input = changed(seed, number);
                run(target, &format!("seed {index}, change {number}"), &input);
            }
        }
        run(target, "nothing", &[]);
    }
}

#[test]
fn everything_in_the_corpus_is_survived() {
    for target in TARGETS {
        let folder = corpus().join(target.name);
        for path in files(&folder) {
            let input = std::fs::read(&path).expect("a readable input");
            run(target, &path.display().to_string(), &input);
        }
    }
}

fn files(folder: &Path) -> Vec<std::path::PathBuf> {
    let Ok(entries) = std::fs::read_dir(folder) else {
        return Vec::new();
    };
    let mut files: Vec<_> = entries.flatten().map(|entry| entry.path()).collect();
    files.sort();
    files
}
