//! The client's side of the network: a private network namespace, and a TAP device in it that is
//! plugged into the [`switch`](crate::switch). Real Linux TCP runs there, and nothing of it can
//! be seen from, or reach, the networks of the machine. Where that is not permitted, a
//! [`UserStack`] stands in.

mod connect;
mod namespace;
mod packet;
mod tap;
mod user;

pub use connect::{Network, Stream};
pub use namespace::{Namespace, become_root_of_own};
pub use packet::open_packet_socket;
pub use tap::open_tap;
pub use user::{UserStack, UserStream};
