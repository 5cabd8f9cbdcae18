//! The instances lose sight of each other, or stand still, in the middle of a move: the client may
//! have to wait, but never hears two voices, and gets everything in the end.

use godwit_netstack::Duration;
use godwit_sim::host::Plan;
use godwit_sim::net::Rules;
use godwit_sim::scenario::{Cluster, Setup};
use godwit_sim::script::{Closing, Mode};

/// Start a conversation and a move in it, then let `steps` things happen.
fn in_the_middle_of_a_move(steps: u32, mode: Mode) -> (Cluster, usize) {
    let mut cluster = Cluster::new(Setup {
        seed: steps.into(),
        client_link: Rules::delayed(Duration::from_millis(1)),
        ..Setup::default()
    });
    let conversation = cluster.converse(Plan::script(mode, Closing::Client, 800_000, 1));
    cluster.world.run_for(Duration::from_millis(6));
    assert!(cluster.move_on());
    for _ in 0..steps {
        cluster.world.step();
    }
    cluster
        .world
        .check::<godwit_sim::check::Retransmission>()
        .forbidden = false;
    (cluster, conversation)
}

fn partition(mode: Mode, lasts: Duration) {
    for steps in 0..60 {
        let (mut cluster, conversation) = in_the_middle_of_a_move(steps, mode);
        cluster.world.sever(0, 1);
        cluster.world.run_for(lasts);
        cluster.world.heal();
        cluster.finish(conversation, Duration::from_secs(120));
        cluster.assert_clean(&format!("{mode:?}, cut for {lasts:?} at step {steps}"));
        cluster.world.run_for(Duration::from_secs(5));
        cluster.assert_clean(&format!(
            "{mode:?}, cut for {lasts:?} at step {steps}, after"
        ));
    }
}

#[test]
fn a_short_partition_at_every_step_of_a_move() {
    partition(Mode::Echo, Duration::from_millis(300));
}

#[test]
fn a_long_partition_at_every_step_of_a_move() {
    partition(Mode::Download, Duration::from_secs(20));
}

#[test]
fn either_instance_stands_still_at_every_step_of_a_move() {
    for node in [0, 1] {
        for steps in 0..60 {
            let (mut cluster, conversation) = in_the_middle_of_a_move(steps, Mode::Upload);
            cluster.world.pause(node, Duration::from_secs(5));
            cluster.finish(conversation, Duration::from_secs(120));
            cluster.assert_clean(&format!("node {node} stands still at step {steps}"));
        }
    }
}
