//! Behaviour of whole connections, two of them over a link ([`super::testing::Pair`]).

mod bulk;
mod moves;
