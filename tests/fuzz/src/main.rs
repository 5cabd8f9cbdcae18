//! Writes the seeds of all targets as files, one folder a target.

use std::path::PathBuf;
use std::process::ExitCode;

use godwit_fuzz::TARGETS;

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let [command, folder] = &words[..] else {
        eprintln!("usage: godwit-fuzz seeds FOLDER");
        return ExitCode::FAILURE;
    };
    if command != "seeds" {
        eprintln!("usage: godwit-fuzz seeds FOLDER");
        return ExitCode::FAILURE;
    }
    for target in TARGETS {
        let folder = PathBuf::from(folder).join(target.name);
        let written = std::fs::create_dir_all(&folder).and_then(|()| {
            for (number, seed) in (target.seeds)().into_iter().enumerate() {
                std::fs::write(folder.join(format!("seed-{number:02}")), seed)?;
            }
            Ok(())
        });
        if let Err(error) = written {
            eprintln!("cannot write {}: {error}", folder.display());
            return ExitCode::FAILURE;
        }
    }
    ExitCode::SUCCESS
}
