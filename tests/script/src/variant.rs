//! The ways in which a script is run, and what a run that fails says.

use std::fmt;

use crate::trace::Trace;

/// Which IP the run is over.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

/// Who opens the connections that `open` opens.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Role {
    /// The peer.
    Passive,
    /// The stack under test.
    Active,
}

/// When connections move besides where the script says so.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Moving {
    /// Never.
    Never,
    /// After every line.
    Everywhere,
    /// Once, after the line with this index.
    After(usize),
}

/// One way to run a script.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Variant {
    /// Over which IP.
    pub family: Family,
    /// In which role.
    pub role: Role,
    /// With which moves.
    pub moving: Moving,
}

impl fmt::Display for Variant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let family = match self.family {
            Family::V4 => "IPv4",
            Family::V6 => "IPv6",
        };
        let role = match self.role {
            Role::Passive => "passive",
            Role::Active => "active",
        };
        write!(f, "{family}, {role} open")?;
        match self.moving {
            Moving::Never => Ok(()),
            Moving::Everywhere => f.write_str(", a move after every line"),
            Moving::After(index) => write!(f, ", a move after event {}", index + 1),
        }
    }
}

/// Why a run failed.
#[derive(Clone, Debug)]
pub struct Failure {
    /// The line, from 1.
    pub line: usize,
    /// The line as written.
    pub text: String,
    /// What was wrong.
    pub message: String,
    /// What happened up to there.
    pub trace: Trace,
}
