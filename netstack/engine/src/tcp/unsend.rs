//! Taking back what was handed out and did not leave: the connection moves amid a burst.

use super::connection::Connection;
use super::snd::{Marks, SndFin};
use crate::seq::SeqNumber;

impl Connection {
    /// The last burst did not leave from `from` on, `len` octets and a FIN if it had one: new
    /// octets are unsent again, and retransmitted ones still lost.
    pub(crate) fn unsend(&mut self, from: SeqNumber, len: u32) {
        let index = self.snd.index_of(from);
        if let Some(segment) = self.snd.sent.get(index) {
            let head = from.distance_from(segment.seq);
            self.snd.split(index, head);
        }
        let index = self.snd.index_of(from);
        let last = index + 1 == self.snd.sent.len();
        match self.snd.sent.get(index).copied() {
            Some(segment) if last && segment.seq == from && segment.marks.0 & !Marks::FIN == 0 => {
                self.snd.sent.pop_back();
                self.snd.nxt = from;
                if segment.marks.has(Marks::FIN) {
                    self.snd.fin = SndFin::Queued;
                }
                self.forget_beyond(from);
            }
            _ => self.lose(index, from.add(len)),
        }
    }

    /// Whatever was to happen when SND.NXT of just now is acknowledged, happens at `nxt`.
    fn forget_beyond(&mut self, nxt: SeqNumber) {
        let recovery = &mut self.recovery;
        recovery.point = recovery.point.earlier(nxt);
        let rounds = [
            &mut recovery.tlp.end,
            &mut recovery.rack.dsack_round,
            &mut self.ecn.point,
        ];
        for round in rounds {
            *round = round.map(|end| end.earlier(nxt));
        }
        if let Some(episode) = &mut recovery.undo.0 {
            episode.until = episode.until.map(|end| end.earlier(nxt));
        }
        self.snd.next_lost = self.snd.next_lost.earlier(nxt);
    }

    /// Mark the segments from `index` up to `end` lost.
    fn lose(&mut self, index: usize, end: SeqNumber) {
        let straddling = self.snd.index_of(end);
        if let Some(segment) = self.snd.sent.get(straddling)
            && segment.seq.before(end)
        {
            let head = end.distance_from(segment.seq);
            self.snd.split(straddling, head);
        }
        for index in index..self.snd.sent.len() {
            match self.snd.sent.get(index) {
                Some(segment) if segment.seq.before(end) => self.snd.mark_lost(index),
                _ => break,
            };
        }
    }
}
