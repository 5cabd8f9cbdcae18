//! The command line: the host's own keys, and sources for [`godwit::config`].

use godwit_netstack::stack::MacAddr;

/// The service to run.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Which {
    /// Files over HTTP.
    Http,
    /// Echo.
    Echo,
    /// A server for iperf3.
    Iperf3,
}

const USAGE: &str =
    "usage: godwit-hosted http|echo|iperf3 tap=NAME ip=ADDRESS/PREFIX [KEY=VALUE ...]";

/// What `--help` says.
pub const HELP: &str = "\
Serve as a Godwit instance does, in a Linux process on a TAP device.

usage: godwit-hosted http|echo|iperf3 tap=NAME ip=ADDRESS/PREFIX [KEY=VALUE ...]

The process:
  tap=NAME         the TAP device; it is made if it is not there and this is permitted
  mac=XX:XX:...    the instance's Ethernet address (default: made of the id)
  instance_tap=NAME  another TAP device, for the instance network (with instance_ip)
  instance_mac=XX:XX:...  the instance's Ethernet address there (default: made of the id)
  mtu=OCTETS       largest IP packet, 576 to 65535 (1500)
  offload=on|off   leave checksums and segmentation to the host kernel (on)
  config=FILE      more words, one or many a line: the place for secrets

To make a TAP device takes root (CAP_NET_ADMIN), and one that the process has made is gone when it ends. This
machine reaches the instance by it once it has an address and is up (as root, too):
ip addr add 10.99.0.1/24 dev tap0; ip link set tap0 up

The instance:
  id=NUMBER        its number in the cluster, 1 or more (1)
  ip=ADDR/PREFIX   its own address, or dhcp; may be repeated
  gw=ADDR          default gateway, one per family
  vip=ADDR         virtual address that the members share; may be repeated
  instance_ip=ADDR/PREFIX  its own address in a network for the instances alone; may be repeated
  instance_gw=ADDR gateway there, one per family
  peer=ID@ADDR     another member; may be repeated
  discover=WHICH   members that are no peers: on (find them), join (be one that is found) or off (off)
  ingress=ID       who is elected first to answer for the virtual addresses (the lowest id)
  priority=NUMBER  of this member in that election, 0 to 255 (100)
  preempt=on|off   whether a member of higher priority takes the role back (off)
  witness=ID       a member that only votes; may be repeated
  prefer=WHICH     without a majority: consistency (no ingress) or availability (consistency)
  lease=TIME       how long the ingress may act on its last votes, 500ms to 60s (2s)
  heartbeat=TIME   between heartbeats, 20ms to 15s, a quarter of the lease at most (200ms)
  cluster_key=HEX  64 hex digits, the same at all members
  cluster_key_old=HEX  a key that is taken too, while cluster_key changes; may be repeated
  policy=LIST      give sessions away unasked: load, flood, health, several with commas (none)
  policy_dry_run=on|off  only log what the policy would move (off)
  policy_margin=N  percent above the mean of the members at which load begins, 5 to 1000 (25)
  policy_hold=TIME how long something must be wrong first, 1s to 600s (5s)
  policy_syn_rate=N  SYNs a second that are a flood, 10 to 10000000 (20000)
  admin_port=PORT  the admin API's (9100)
  admin_token=TEXT its bearer token, 8 to 256 characters; without one it only tells its health
  drain_deadline=TIME  how long sessions may take to move when it leaves, 1s to 3600s (60s)
  drain_then=WHICH what becomes of the rest: wait, force (reset it) or cancel (force)
  port=PORT        the service's port (its own)
  connections=N    held at most, 64 to 1000000 (65536)
  log=LEVEL        off, error, warn, info, debug or trace (info)

SIGTERM is the power button: sessions go to other members, then the process ends.";

/// What the command line says.
#[derive(PartialEq, Eq)]
pub struct Arguments {
    /// The service.
    pub service: Which,
    /// The TAP device.
    pub tap: String,
    /// The instance's address on it.
    pub mac: MacAddr,
    /// The TAP device of the instance network.
    pub instance_tap: Option<String>,
    /// The instance's address on that.
    pub instance_mac: MacAddr,
    /// Largest IP packet.
    pub mtu: u16,
    /// Leave checksums and segmentation to the host kernel.
    pub offload: bool,
    /// Everything else, for the configuration's parser.
    pub sources: Vec<String>,
}

impl Arguments {
    /// Read the words after the program's name.
    pub fn read(mut words: impl Iterator<Item = String>) -> Result<Arguments, String> {
        let service = match words.next().as_deref() {
            Some("http") => Which::Http,
            Some("echo") => Which::Echo,
            Some("iperf3") => Which::Iperf3,
            Some(other) => return Err(format!("`{other}` is no service: {USAGE}")),
            None => return Err(USAGE.into()),
        };
        let (mut tap, mut mac, mut mtu, mut offload) = (None, None, 1500, true);
        let (mut instance_tap, mut instance_mac) = (None, None);
        let mut id = 1;
        let mut sources = Vec::new();
        for word in words {
            match word.split_once('=') {
                Some(("tap", name)) => tap = Some(name.to_owned()),
                Some(("mac", text)) => mac = Some(read_mac(text)?),
                Some(("instance_tap", name)) => instance_tap = Some(name.to_owned()),
                Some(("instance_mac", text)) => instance_mac = Some(read_mac(text)?),
                Some(("mtu", text)) => {
                    let octets = text.parse().ok().filter(|octets| *octets >= 576);
                    mtu = octets.ok_or_else(|| format!("`mtu={text}`: expected 576 to 65535"))?;
                }
                Some(("offload", "on")) => offload = true,
                Some(("offload", "off")) => offload = false,
                Some(("offload", text)) => {
                    return Err(format!("`offload={text}`: expected on or off"));
                }
                Some(("config", path)) => sources.push(
                    std::fs::read_to_string(path).map_err(|e| format!("`config`: {path}: {e}"))?,
                ),
                other => {
                    if let Some(("id", text)) = other {
                        id = text.parse().unwrap_or(id);
                    }
                    sources.push(word);
                }
            }
        }
        Ok(Arguments {
            service,
            tap: tap.ok_or("`tap` is missing: the TAP device to serve on")?,
            mac: mac.unwrap_or_else(|| default_mac(id)),
            instance_tap,
            instance_mac: instance_mac.unwrap_or_else(|| {
                let [first, _, a, b, c, d] = default_mac(id);
                [first, 0x68, a, b, c, d]
            }),
            mtu,
            offload,
            sources,
        })
    }
}

/// A locally administered address that differs between the members of a cluster.
fn default_mac(id: u32) -> MacAddr {
    let [a, b, c, d] = id.to_be_bytes();
    [0x02, 0x67, a, b, c, d]
}

fn read_mac(text: &str) -> Result<MacAddr, String> {
    let mut mac = [0; 6];
    let mut parts = text.split(':');
    for octet in &mut mac {
        let part = parts.next().filter(|part| part.len() == 2);
        *octet = part
            .and_then(|part| u8::from_str_radix(part, 16).ok())
            .ok_or("`mac`: expected six pairs of hex digits")?;
    }
    if parts.next().is_some() || mac[0] & 1 != 0 {
        return Err("`mac`: expected the address of one station".into());
    }
    Ok(mac)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Arguments, String> {
        Arguments::read(text.split(' ').map(str::to_owned))
    }

    #[test]
    fn own_keys_are_taken_out_and_the_rest_is_passed_on() {
        let arguments = read("http tap=t0 mac=02:00:00:00:00:07 mtu=9000 id=2 offload=off ip=dhcp")
            .map_err(|error| panic!("{error}"))
            .unwrap();
        assert_eq!(arguments.service, Which::Http);
        assert_eq!(arguments.tap, "t0");
        assert_eq!(arguments.mac, [2, 0, 0, 0, 0, 7]);
        assert_eq!(arguments.mtu, 9000);
        assert!(!arguments.offload);
        assert_eq!(arguments.sources, ["id=2", "ip=dhcp"]);
    }

    #[test]
    fn members_get_addresses_of_their_own() {
        let mac = |text| read(text).map(|arguments| arguments.mac).unwrap();
        assert_ne!(mac("echo tap=t id=1"), mac("echo tap=t id=257"));
    }

    #[test]
    fn what_is_wrong_is_named() {
        let error = |text| read(text).err().unwrap();
        assert!(error("ftp tap=t").contains("`ftp`"));
        assert!(error("http tap=t mtu=9").contains("mtu=9"));
        assert!(error("http tap=t offload=maybe").contains("maybe"));
    }

    #[test]
    fn the_help_has_every_key() {
        for key in [
            "tap",
            "mac",
            "instance_tap",
            "instance_mac",
            "instance_ip",
            "instance_gw",
            "mtu",
            "offload",
            "config",
            "id",
            "ip",
            "gw",
            "vip",
            "peer",
            "discover",
            "ingress",
            "priority",
            "preempt",
            "witness",
            "prefer",
            "lease",
            "heartbeat",
            "cluster_key",
            "cluster_key_old",
            "policy",
            "policy_dry_run",
            "policy_margin",
            "policy_hold",
            "policy_syn_rate",
            "admin_port",
            "admin_token",
            "drain_deadline",
            "drain_then",
            "port",
            "connections",
            "log",
        ] {
            assert!(HELP.contains(&format!("\n  {key}=")), "{key}");
        }
    }

    #[test]
    fn what_cannot_be_is_refused() {
        for text in [
            "",
            "ftp tap=t",
            "http",
            "http tap=t mtu=100",
            "http tap=t mtu=x",
            "http tap=t mac=1:2:3:4:5:6",
            "http tap=t mac=01:00:00:00:00:00",
            "http tap=t mac=02:00:00:00:00:00:00",
            "http tap=t offload=maybe",
            "http tap=t config=/no/such/file",
        ] {
            assert!(read(text).is_err(), "{text}");
        }
    }
}
