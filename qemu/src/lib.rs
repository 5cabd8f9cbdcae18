//! The host side of Godwit: virtual machines, a virtual switch, a private network for real Linux
//! clients, analysis of what the client saw on the wire, and the `godwit` command's jobs.

pub mod admin;
pub mod build;
pub mod content;
pub mod crowd;
pub mod ctl;
pub mod demo;
pub mod image;
pub mod interrupt;
pub mod media;
pub mod net;
pub mod progress;
pub mod run;
pub mod scratch;
pub mod setup;
pub mod switch;
pub mod vm;
pub mod wire;
pub mod words;
