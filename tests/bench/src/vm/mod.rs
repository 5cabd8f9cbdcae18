//! Whole machines: the HTTP image against Debian's cloud kernel with nginx, under the same
//! accelerator, on the same machine type with one processor, over TAP with offloads.

mod boot;
mod cpio;
mod least;
mod load;
mod peer;
mod poll;
mod yard;

pub use boot::{guest, http};
pub use least::{image, ram};
pub use load::{bulk, close, keepalive, latency};
