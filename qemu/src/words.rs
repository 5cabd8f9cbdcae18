//! Words of configuration on the command line, checked by the schema that images read them by: what an
//! image would refuse at its boot is refused before one is built, or warned of where more words may come.

use anyhow::{Result, anyhow};
use clap::error::{ContextKind, ContextValue, ErrorKind};
use godwit_config::{Config, ConfigError, is_secret};

/// Refuses a configuration that an image would refuse. `sources` are as the image reads them: later ones win.
pub fn check(sources: &[&str]) -> Result<()> {
    Config::parse(sources).map(drop).map_err(refusal)
}

/// The same for one that may be added to before the boot. What further words could put right is returned, in
/// words: what is missing, and what does not go together but may be set otherwise.
pub fn check_part(sources: &[&str]) -> Result<Option<String>> {
    match Config::parse(sources) {
        Ok(_) => Ok(None),
        Err(error) if error.is_open() => Ok(Some(error.to_string())),
        Err(error) => Err(refusal(error)),
    }
}

fn refusal(error: ConfigError) -> anyhow::Error {
    let hint = match error {
        ConfigError::UnknownKey { .. } => "; README.md lists the keys",
        ConfigError::NotKeyValue { .. } => "; expected KEY=VALUE",
        _ => "",
    };
    anyhow!("the configuration is wrong: {error}{hint}")
}

/// The keys of those words whose values are secrets, each once.
pub fn secrets(words: &[String]) -> Vec<&str> {
    let keys = words
        .iter()
        .filter_map(|word| Some(word.split_once('=')?.0));
    let mut secrets: Vec<&str> = keys.filter(|key| is_secret(key)).collect();
    secrets.sort_unstable();
    secrets.dedup();
    secrets
}

/// Adds to what clap says of an argument that looks like a word of configuration where to put it.
pub fn with_tip(mut error: clap::Error) -> clap::Error {
    let word = match (error.kind(), error.get(ContextKind::InvalidArg)) {
        (ErrorKind::UnknownArgument, Some(ContextValue::String(word))) => word.clone(),
        _ => return error,
    };
    let usage = error.get(ContextKind::Usage).map(ToString::to_string);
    let takes_words = usage.is_some_and(|usage| usage.contains("[-- <KEY=VALUE>"));
    if takes_words && word.contains('=') && !word.starts_with('-') {
        let tip = format!("configuration goes behind `--`: -- {word}");
        error.insert(
            ContextKind::Suggested,
            ContextValue::StyledStrs(vec![tip.into()]),
        );
    }
    error
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Debug, Parser)]
    enum Command {
        Run(crate::run::Options),
        Build(crate::media::Options),
        Ctl(crate::ctl::Options),
    }

    fn refused(words: &[&str]) -> String {
        let error = Command::try_parse_from(words).unwrap_err();
        with_tip(error).to_string()
    }

    #[test]
    fn what_an_image_would_refuse_is_refused_with_a_hint() {
        assert!(check(&["ip=dhcp", "log=debug"]).is_ok());
        for (words, said) in [
            ("foo=1", "unknown key `foo`; README.md lists the keys"),
            ("ip=dhcp peers=2@10.0.0.2", "(`peer`?)"),
            (
                "ip=dhcp quiet",
                "`quiet` is not key=value; expected KEY=VALUE",
            ),
            ("ip=dhcp log=loud", "`log`: expected off, error"),
            ("id=1", "`ip` is missing"),
        ] {
            let error = check(&[words]).unwrap_err().to_string();
            assert!(error.contains(said), "{error}");
        }
        let secret = "ab".repeat(40);
        let error = check(&[&format!("ip=dhcp admin_token=open-sesame {secret}")]).unwrap_err();
        assert!(!error.to_string().contains("abab"), "{error}");
    }

    #[test]
    fn what_may_yet_be_added_is_not_refused() {
        assert_eq!(check_part(&["ip=dhcp"]).unwrap(), None);
        let missing = check_part(&["id=2"]).unwrap().unwrap();
        assert!(missing.contains("`ip` is missing"), "{missing}");
        for (words, said) in [
            ("ip=dhcp ingress=2", "`ingress`: is neither"),
            ("ip=dhcp witness=3", "`witness`: is neither"),
            (
                "ip=dhcp heartbeat=1s",
                "`heartbeat`: is more than a quarter",
            ),
        ] {
            let open = check_part(&[words]).unwrap().unwrap();
            assert!(open.contains(said), "{open}");
            assert!(check(&[words]).is_err(), "nothing is added to {words}");
        }
        assert!(check_part(&["id=2 foo=1"]).is_err());
        assert!(check_part(&["ip=10.0.0.1/8 vip=10.0.0.1"]).is_err());
    }

    #[test]
    fn secrets_are_named_without_their_values() {
        let words = [
            "ip=dhcp",
            "cluster_key=ab",
            "admin_token=x",
            "admin_token=y",
            "quiet",
        ];
        let words = words.map(String::from);
        assert_eq!(secrets(&words), ["admin_token", "cluster_key"]);
    }

    #[test]
    fn a_word_before_the_dashes_is_told_where_to_go() {
        for command in ["run", "build"] {
            let error = refused(&["godwit", command, "http", "log=debug"]);
            assert!(error.contains("behind `--`: -- log=debug"), "{error}");
        }
        for other in [
            &["godwit", "run", "http", "more"][..],
            &["godwit", "run", "http", "--foo=1"],
            &["godwit", "ctl", "status", "log=debug"],
        ] {
            let error = refused(other);
            assert!(!error.contains("behind"), "{error}");
        }
    }
}
