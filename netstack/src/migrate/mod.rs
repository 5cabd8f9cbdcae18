//! Moving sessions: the capsule (frozen v1 codec), export, import, and the transfer as two
//! sans-IO machines.
