//! Counters: every frame that is dropped is counted under the reason why.

use alloc::vec::Vec;

macro_rules! counters {
    ($($(#[doc = $doc:literal])+ $name:ident,)+) => {
        /// What the stack did and dropped since it was built.
        #[derive(Clone, Debug, Default)]
        pub struct Counters {
            $($(#[doc = $doc])+ pub $name: u64,)+
        }

        const NAMES: &[&str] = &[$(stringify!($name)),+];

        impl Counters {
            /// Every counter by name, in a fixed order.
            pub fn list(&self) -> Vec<(&'static str, u64)> {
                let values = [$(self.$name),+];
                NAMES.iter().copied().zip(values).collect()
            }
        }
    };
}

counters! {
    /// Frames received.
    rx_frames,
    /// Frames sent.
    tx_frames,
    /// Dropped: truncated or contradictory headers.
    rx_malformed,
    /// Dropped: addressed to another station.
    rx_other_station,
    /// Dropped: an ethertype we do not speak.
    rx_unknown_ethertype,
    /// Dropped: an IP protocol or extension header we do not speak.
    rx_unknown_protocol,
    /// Dropped: an IP destination that is none of ours.
    rx_other_address,
    /// Dropped: an own IP destination, but one of the other network.
    rx_other_network,
    /// Dropped: a source address nobody can have (ours, multicast, broadcast, unspecified).
    rx_bad_source,
    /// Dropped: a wrong IPv4 header or transport checksum.
    rx_bad_checksum,
    /// Dropped: an IP fragment.
    rx_fragment,
    /// Dropped: TCP to a broadcast or multicast destination.
    rx_tcp_not_unicast,
    /// TCP segments handed to a connection.
    rx_tcp_segments,
    /// TCP segments of these that brought octets received already (what is handled together counts once).
    rx_tcp_overlap,
    /// TCP segments sent for connections (before segmentation by the device).
    tx_tcp_segments,
    /// Frames forwarded to another instance.
    forwarded,
    /// Dropped, and its route with it: a SYN that came from where it was to be forwarded to.
    forward_round,
    /// Dropped on forwarding: TTL or hop limit exhausted.
    forward_ttl_exceeded,
    /// Dropped on forwarding: larger than the link carries and not to be cut.
    forward_too_big,
    /// Frames captured for a frozen session.
    captured,
    /// Dropped: the queue of captured frames is full.
    capture_overflow,
    /// Frames put into a hold queue.
    held,
    /// Dropped: a hold queue, or all of them together, is full.
    hold_overflow,
    /// Dropped: held for too long.
    hold_expired,
    /// Frames received through the channel of another instance.
    injected,
    /// Dropped of these: the session they followed has ended.
    injected_late,
    /// Unknown flows asked about.
    unknown_asked,
    /// Dropped: too many unknown flows are being asked about.
    unknown_overflow,
    /// SYNs that opened a half-open connection.
    syn_received,
    /// Dropped SYN: the listener takes no new connections at present.
    syn_not_accepting,
    /// Dropped SYN: the limit of connections is reached, or that of half-open ones that have to be
    /// remembered.
    syn_too_many,
    /// Connections in TIME-WAIT that made way at the limit of connections.
    time_wait_evicted,
    /// Connections in TIME-WAIT whose ends were taken for one opened from here.
    time_wait_reopened,
    /// SYNs answered without being remembered, as the table of half-open connections was full.
    syn_cookies_sent,
    /// Connections accepted by the cookie in the peer's ACK.
    syn_cookies_taken,
    /// ACKs of unknown flows without a valid cookie, while some are out.
    syn_cookies_bad,
    /// ACKs with the cookie of a connection that is over.
    syn_cookies_spent,
    /// Connections ended because their client repeats the cookie of another one and answers no probe.
    abandoned,
    /// Cookies of connections that are over forgotten before they were out of date, for want of memory.
    syn_cookies_forgotten,
    /// Answers to segments of half-open connections not sent because of their rate limit.
    challenges_limited,
    /// Dropped SYN: memory for queues is exhausted.
    syn_no_memory,
    /// Octets out of order dropped as memory was exhausted, of connections that were idle.
    out_of_order_reclaimed,
    /// Half-open connections given up or reset.
    half_open_expired,
    /// Dropped: a segment that does not fit a half-open connection, and may be another instance's.
    half_open_silent,
    /// Connections accepted.
    accepted,
    /// Connections opened from here.
    opened,
    /// Connections put in from another instance.
    attached,
    /// Connections taken out for another instance.
    detached,
    /// RSTs sent for segments of unknown flows.
    rst_sent,
    /// RSTs not sent because of their rate limit.
    rst_suppressed,
    /// Dropped: RSTs for unknown flows.
    rst_unknown_flow,
    /// ARP packets received.
    arp_received,
    /// Dropped: ARP that is malformed or claims an address that is ours.
    arp_ignored,
    /// ARP and neighbour solicitations answered.
    neighbour_answered,
    /// ARP requests and neighbour solicitations sent.
    neighbour_asked,
    /// Someone else claims one of our own addresses.
    address_conflict,
    /// Neighbours that did not answer.
    neighbour_failed,
    /// Dropped: the next hop did not answer, or too many frames wait for it.
    neighbour_unresolved,
    /// Dropped: no room for another neighbour.
    neighbour_table_full,
    /// Neighbour discovery messages received.
    ndp_received,
    /// Dropped: neighbour discovery that fails RFC 4861's checks or claims an address of ours.
    ndp_ignored,
    /// Announcements of virtual addresses sent.
    vip_announced,
    /// Somebody else announced a virtual address while we answered for it.
    vip_conflict,
    /// That again within ten seconds: not answered with another announcement.
    vip_not_defended,
    /// ICMP messages received.
    icmp_received,
    /// Echo requests answered.
    icmp_echo_answered,
    /// Dropped: echo requests beyond their rate limit.
    icmp_echo_limited,
    /// Dropped: ICMP we have no use for.
    icmp_ignored,
    /// Dropped: ICMP errors that quote no flow of ours.
    icmp_error_stray,
    /// ICMP errors handed to the connection they quote.
    icmp_error_accepted,
    /// Datagrams handed to the slow path.
    udp_received,
    /// Dropped: UDP to a virtual or unusable address, or beyond the slow path's rate limit.
    udp_ignored,
    /// Datagrams and messages sent by the slow path.
    slow_sent,
    /// Dropped on sending: neither on-link nor reachable through a gateway.
    tx_no_route,
    /// Dropped on sending: the egress queue is full.
    tx_overflow,
    /// DHCP leases obtained or renewed with a change.
    dhcp_configured,
    /// DHCP leases lost.
    dhcp_lost,
    /// Leases refused: of an address of the instance network.
    dhcp_refused,
}

#[cfg(test)]
mod tests {
    use super::Counters;

    #[test]
    fn every_counter_is_listed_once_by_its_name() {
        let counters = Counters {
            rx_fragment: 7,
            ..Counters::default()
        };
        let list = counters.list();
        assert!(list.contains(&("rx_fragment", 7)));
        let mut names: Vec<_> = list.iter().map(|(name, _)| *name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), list.len());
    }
}
