//! Moving sessions: the capsule (frozen v1 codec) and the transfer as two sans-IO machines.
//!
//! - [`transfer`]: who may own a session under which epoch, at the source and at the target.
//! - [`rope`]: octets as shared slices.
//!
//! Export and import of a connection are [`crate::tcp`]'s; carrying messages and frames is
//! [`crate::instance`]'s.

pub mod capsule;
pub mod rope;
mod sum;
pub mod transfer;
