//! What operators do to a cluster while real clients (curl, and the Linux kernel's TCP) are served: its key is
//! changed, an instance joins and leaves.

mod yard;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::Command;
use std::thread;
use std::time::Duration;

use serde_json::Value;
use yard::{
    Hosted, TOKEN, in_namespace, keep_receive_buffers_small, kernel_counter, lay_bridge, wait_until,
};

fn wait_for_members(instances: &[Hosted]) {
    let up = |hosted: &Hosted| {
        let status = hosted.status();
        let mut members = status["members"].as_array().expect("a list").iter();
        members.all(|member| member["up"] == true)
    };
    wait_until("the members see each other", || {
        instances.iter().all(up).then_some(())
    });
}

/// The keys an instance has, after an order if there is one.
fn keys(hosted: &Hosted, order: Option<(&str, &str)>) -> Vec<Value> {
    let (method, body) = match order {
        Some((what, key)) => ("POST", format!(r#"{{"{what}":"{key}"}}"#)),
        None => ("GET", String::new()),
    };
    let (status, answer) = hosted.ask(method, "/key", &body, Some(TOKEN));
    assert_eq!(status, 200, "{answer}");
    let answer: Value = serde_json::from_str(&answer).expect("JSON");
    answer["keys"].as_array().expect("a list").clone()
}

#[test]
fn the_clusters_key_changes_under_a_download_that_moves() {
    let name = "the_clusters_key_changes_under_a_download_that_moves";
    in_namespace(name, || {
        lay_bridge();
        keep_receive_buffers_small();
        let both = [1, 2].map(|id| Hosted::start("http", id, 2, &[]));
        wait_for_members(&both);
        let mut curl = Command::new("curl")
            .args([
                "-sS",
                "--limit-rate",
                "8M",
                "--max-time",
                "60",
                "-o",
                "/dev/null",
            ])
            .args(["-w", "%{http_code} %{num_connects} %{size_download}"])
            .arg("http://10.77.0.10/gen/48M")
            .stdout(std::process::Stdio::piped())
            .spawn()
            .expect("curl starts");
        let move_over = || {
            let (from, session) = wait_until("a session somewhere", || {
                let mut all = (0..2).map(|at| (at, both[at].sessions()));
                all.find_map(|(at, list)| Some((at, list.first()?.clone())))
            });
            let order = format!(r#"{{"session":"{session}","to":{}}}"#, 2 - from);
            assert_eq!(both[from].ask("POST", "/move", &order, Some(TOKEN)).0, 200);
            wait_until("it has moved", || {
                both[1 - from].sessions().contains(&session).then_some(())
            });
        };
        move_over();
        let old = keys(&both[0], None)[0]["id"]
            .as_str()
            .expect("a name")
            .to_owned();
        let new = "a6".repeat(32);
        for hosted in &both {
            keys(hosted, Some(("add", &new)));
        }
        let id = keys(&both[0], None)[1]["id"]
            .as_str()
            .expect("a name")
            .to_owned();
        assert_ne!(id, new, "a name is no key");
        for hosted in &both {
            keys(hosted, Some(("activate", &id)));
        }
        wait_until("channels are opened with the new key", || {
            let changed = |hosted: &Hosted| {
                let keys = keys(hosted, None);
                keys[0]["id"] == *id && keys[0]["channels"] == 1 && keys[1]["channels"] == 0
            };
            both.iter().all(changed).then_some(())
        });
        move_over();
        for hosted in &both {
            assert_eq!(keys(hosted, Some(("remove", &old))).len(), 1);
        }
        move_over();
        let mut report = String::new();
        let mut stdout = curl.stdout.take().expect("piped");
        stdout.read_to_string(&mut report).expect("curl says it");
        assert!(curl.wait().expect("curl ends").success());
        assert_eq!(report, "200 1 50331648");
        assert_eq!(kernel_counter("Tcp", "EstabResets"), 0);
    });
}

/// A connection on which one word after another is echoed.
struct Talk(TcpStream);

impl Talk {
    fn start() -> Talk {
        let stream = TcpStream::connect("10.77.0.10:7").expect("connects");
        let patience = Some(Duration::from_secs(10));
        stream.set_read_timeout(patience).expect("a socket");
        let mut talk = Talk(stream);
        talk.say("first");
        talk
    }

    fn say(&mut self, word: &str) {
        self.0.write_all(word.as_bytes()).expect("sends");
        let mut heard = vec![0; word.len()];
        self.0.read_exact(&mut heard).expect("is answered");
        assert_eq!(heard, word.as_bytes());
    }
}

#[test]
fn load_goes_to_an_instance_that_joins_and_comes_back_when_it_leaves() {
    let name = "load_goes_to_an_instance_that_joins_and_comes_back_when_it_leaves";
    in_namespace(name, || {
        lay_bridge();
        let words = [
            "prefer=availability",
            "lease=1s",
            "policy=load",
            "policy_hold=1s",
        ];
        let first = Hosted::start("echo", 1, 2, &words);
        wait_until("it serves alone", || {
            (first.status()["ingress"] == true).then_some(())
        });
        let mut talks: Vec<Talk> = (0..20).map(|_| Talk::start()).collect();
        assert_eq!(first.sessions().len(), 20);
        let second = Hosted::start("echo", 2, 2, &words);
        // Half of them, less what the connection of the one who asks weighs while it is being opened.
        wait_until("half of them are at the second", || {
            (second.sessions().len() >= 9).then_some(())
        });
        talks.iter_mut().for_each(|talk| talk.say("second"));
        let at = || [first.sessions().len(), second.sessions().len()];
        thread::sleep(Duration::from_secs(1));
        let settled = at();
        assert!([[10, 10], [11, 9]].contains(&settled), "{settled:?}");
        // They stay: nothing goes to and fro.
        thread::sleep(Duration::from_secs(2));
        assert_eq!(at(), settled);
        let (status, policy) = first.ask("GET", "/policy", "", Some(TOKEN));
        assert!(
            status == 200 && policy.contains("nothing: all is well"),
            "{policy}"
        );
        second.press_power_button();
        assert_eq!(second.line("GODWIT VERDICT ")["name"], "drained");
        assert_eq!(second.wait(), 0);
        assert_eq!(first.sessions().len(), 20);
        talks.iter_mut().for_each(|talk| talk.say("third"));
        assert_eq!(kernel_counter("Tcp", "EstabResets"), 0);
    });
}

#[test]
fn a_member_that_nobody_configured_is_found_serves_and_leaves() {
    let name = "a_member_that_nobody_configured_is_found_serves_and_leaves";
    in_namespace(name, || {
        lay_bridge();
        let words = ["discover=on", "lease=1s", "policy=load", "policy_hold=1s"];
        let voters = [1, 2].map(|id| Hosted::start("echo", id, 2, &words));
        wait_for_members(&voters);
        wait_until("one of them is the ingress", || {
            let ingress = |hosted: &Hosted| hosted.status()["ingress"] == true;
            voters.iter().any(ingress).then_some(())
        });
        let mut talks: Vec<Talk> = (0..30).map(|_| Talk::start()).collect();
        let words = ["discover=join", "lease=1s"];
        let third = Hosted::start("echo", 3, 0, &words);
        wait_until("a third of them are at the third", || {
            (third.sessions().len() >= 8).then_some(())
        });
        let votes = third.status()["ingress"] == true;
        assert!(!votes, "{}", third.status());
        talks.iter_mut().for_each(|talk| talk.say("second"));
        talks.extend((0..30).map(|_| Talk::start()));
        talks.iter_mut().for_each(|talk| talk.say("third"));
        third.press_power_button();
        assert_eq!(third.line("GODWIT VERDICT ")["name"], "drained");
        assert_eq!(third.wait(), 0);
        talks.iter_mut().for_each(|talk| talk.say("fourth"));
        let left: usize = voters.iter().map(|hosted| hosted.sessions().len()).sum();
        assert_eq!(left, 60);
        assert_eq!(kernel_counter("Tcp", "EstabResets"), 0);
    });
}
