//! How a run ended.

use alloc::string::String;

use serde::Serialize;

/// Why the instance ended, with the number the host sees as exit code.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
#[repr(u8)]
pub enum Code {
    /// Everything was handed over and the machine may go.
    Drained = 0,
    /// The network card that clients are served through is out of service.
    NoNic = 11,
    /// No entropy: nothing may be served.
    NoEntropy = 12,
    /// The configuration is wrong.
    BadConfig = 13,
    /// DHCP gave no address.
    NoLease = 16,
    /// It left before everything was handed over.
    Incomplete = 19,
}

impl Code {
    /// The number the host sees.
    pub const fn number(self) -> u8 {
        self as u8
    }

    /// The name on the verdict line.
    pub const fn name(self) -> &'static str {
        match self {
            Code::Drained => "drained",
            Code::NoNic => "no-nic",
            Code::NoEntropy => "no-entropy",
            Code::BadConfig => "bad-config",
            Code::NoLease => "no-lease",
            Code::Incomplete => "incomplete",
        }
    }
}

/// The end of a run: what [`crate::run`] returns and the verdict line tells.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Verdict {
    /// What kind of end.
    pub code: Code,
    /// In words.
    pub reason: String,
}

impl Verdict {
    /// An end of this kind.
    pub fn new(code: Code, reason: impl Into<String>) -> Verdict {
        Verdict {
            code,
            reason: reason.into(),
        }
    }

    /// The line for the console: `GODWIT VERDICT {..}`.
    pub fn line(&self) -> String {
        #[derive(Serialize)]
        struct Line<'a> {
            code: u8,
            name: &'static str,
            reason: &'a str,
        }
        let line = Line {
            code: self.code.number(),
            name: self.code.name(),
            reason: &self.reason,
        };
        // Strings and numbers always encode.
        let json = serde_json::to_string(&line).unwrap_or_default();
        alloc::format!("GODWIT VERDICT {json}")
    }
}
