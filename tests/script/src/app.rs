//! What the application does, and what is asserted of its connection.

use bytes::Bytes;

use crate::check;
use crate::flow;
use crate::run::{Outcome, Run};
use crate::script::{Check, Setting};
use crate::trace::What;

impl Run {
    pub(crate) fn accept(&mut self, number: u16) -> Outcome {
        let flow = self.world.flow(number);
        match (flow.reported, flow.accepted) {
            (true, false) => {
                flow.accepted = true;
                Ok(())
            }
            (true, true) => Err("this connection was accepted before".into()),
            (false, _) => Err("there is no connection to accept".into()),
        }
    }

    /// Run a command on the flow's connection.
    pub(crate) fn on_connection<R>(
        &mut self,
        number: u16,
        command: impl FnOnce(godwit_netstack::Instant, &mut godwit_netstack::tcp::Connection) -> R,
    ) -> Result<R, String> {
        let now = self.world.instant();
        let flow = self.world.flow(number);
        if !flow.accepted {
            return Err("no connection was accepted or opened".into());
        }
        let (owner, conn) = (flow.owner, flow.conn.ok_or("the connection is gone")?);
        let result = self.world.stacks[owner]
            .update(now, conn, |connection| command(now, connection))
            .ok_or("the connection is gone")?;
        self.world.pump();
        Ok(result)
    }

    pub(crate) fn send(&mut self, number: u16, count: usize) -> Outcome {
        let from = self.world.flow(number).sent;
        let octets = flow::octets(flow::OURS, from as i64, count);
        self.world.note(What::Call, format!("send {count}"));
        let sent = self.on_connection(number, |now, connection| {
            connection.send(now, Bytes::from(octets))
        })?;
        sent.map_err(|error| format!("send failed: {error}"))?;
        self.world.flow(number).sent += count as u64;
        Ok(())
    }

    pub(crate) fn receive(&mut self, number: u16, count: usize) -> Outcome {
        let from = self.world.flow(number).read;
        let got = self.on_connection(number, |now, connection| {
            let mut got = Vec::new();
            while got.len() < count
                && let Some(chunk) = connection.receive_peek(got.len())
            {
                got.extend_from_slice(&chunk);
            }
            got.truncate(count);
            connection.receive_consume(now, got.len());
            got
        })?;
        if got.len() < count {
            return Err(format!("only {} octets were there to receive", got.len()));
        }
        let wanted = flow::octets(flow::THEIRS, from as i64, count);
        if let Some(place) = got
            .iter()
            .zip(&wanted)
            .position(|(got, wanted)| got != wanted)
        {
            return Err(format!(
                "the octet at place {} of the stream is wrong",
                from as usize + place
            ));
        }
        self.world.flow(number).read += count as u64;
        Ok(())
    }

    pub(crate) fn set(&mut self, number: u16, setting: &Setting) -> Outcome {
        self.on_connection(number, |now, connection| {
            let mut options = *connection.options();
            match setting {
                Setting::Nagle(on) => options.nagle = *on,
                Setting::AckDelay(time) => options.ack_delay = *time,
                Setting::PeerAckDelay(time) => options.peer_ack_delay = *time,
                Setting::MinRto(time) => options.min_rto = *time,
                Setting::UserTimeout(time) => options.user_timeout = *time,
                Setting::Keepalive(keepalive) => {
                    options.keepalive =
                        keepalive.map(|(idle, interval, probes)| godwit_netstack::tcp::Keepalive {
                            idle,
                            interval,
                            probes,
                        });
                }
            }
            connection.set_options(now, options);
        })
    }

    pub(crate) fn check(&mut self, number: u16, checks: &[Check]) -> Outcome {
        self.world.pump();
        let flow = self.world.flow(number);
        for check in checks {
            if self.lenient && check::is_estimator(&check.key) {
                continue;
            }
            check::hold(flow, check)?;
        }
        Ok(())
    }

    pub(crate) fn counter(&self, name: &str, test: crate::script::Test, wanted: u64) -> Outcome {
        let mut found = false;
        let mut total = 0;
        for stack in &self.world.stacks {
            for (key, value) in stack.counters() {
                if key == name {
                    found = true;
                    total += value;
                }
            }
        }
        match (found, check::compare(test, &total, &wanted, &wanted)) {
            (false, _) => Err(format!("the stack has no counter `{name}`")),
            (true, true) => Ok(()),
            (true, false) => Err(format!("the stack's counter `{name}` is {total}")),
        }
    }
}
