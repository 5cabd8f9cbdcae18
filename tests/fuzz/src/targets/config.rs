//! The configuration, from a kernel command line or fw_cfg.

use godwit::config::Config;

use crate::Target;

pub(crate) const TARGET: Target = Target {
    name: "config",
    run,
    seeds,
};

fn run(input: &[u8]) {
    let text = String::from_utf8_lossy(input);
    // Two sources, so that later words meet earlier ones.
    let (first, second) = text.split_once("\n--\n").unwrap_or((&text, ""));
    if let Err(error) = Config::parse(&[first, second]) {
        let words = error.to_string();
        assert!(!words.is_empty() && words.len() < 1_000, "{words}");
    }
}

fn seeds() -> Vec<Vec<u8>> {
    let texts = [
        "id=1 ip=10.77.0.11/24 ip=fd77::11/64 gw=10.77.0.1 vip=10.77.0.10 vip=fd77::10",
        "id=2\nip=dhcp\nport=8080\nlog=debug\nadmin_port=9100\nadmin_token=0123456789abcdef",
        "id=1 ip=10.77.0.11/24 vip=10.77.0.10 peer=2@10.77.0.12 peer=3@10.77.0.13 ingress=2\n--\n\
         cluster_key=00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff",
        "# comment\nid=\"1\"  ip = 10.0.0.1/24 vip=fd77::10, peer=2@",
    ];
    texts.map(|text| text.as_bytes().to_vec()).into()
}
