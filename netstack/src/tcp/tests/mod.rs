//! Behaviour of whole connections, two of them over a link ([`super::testing::Pair`]).

mod attacks;
mod bulk;
mod moves;
mod recovery;
mod states;
mod windows;
