//! Drifts of outgoing traffic: queues and filters, as somebody with tc(8) changes them.

use super::Found;
use fastrand::Rng;
use model::Priority;
use network::link::CurrentLink;
use network::traffic::{Ets, Filter, MarkRule, Marks, Packets, Queue};
use network::{Attribute, LinkName, Op};

/// Bytes of a round that somebody may give to a band.
const QUANTA_BYTES: std::ops::Range<u32> = 1514..200_000;

pub(super) fn of_traffic(rng: &mut Rng, name: &LinkName, link: &CurrentLink, found: &mut Found) {
    let mut queue = |queue| found.push((Attribute::Queue, vec![Op::SetQueue { name: name.clone(), queue }]));
    if let Queue::Ets(ets) = &link.traffic.queue {
        queue(Queue::Default);
        queue(plain());
        let quanta_bytes = ets.quanta_bytes.iter().map(|_| rng.u32(QUANTA_BYTES)).collect();
        queue(Queue::Ets(Ets { quanta_bytes, ..ets.clone() }));
        let mut bands = ets.bands;
        bands[usize::from(Priority::STORAGE.get())] = ets.bands[usize::from(Priority::DEFAULT.get())];
        queue(Queue::Ets(Ets { bands, ..ets.clone() }));
    }
    let Marks::Filters(filters) = &link.traffic.marks else { return };
    queue(plain());
    let mut filter = |ops| found.push((Attribute::Filters, ops));
    filter(vec![Op::RemoveClassifier { name: name.clone() }]);
    let add = |preference, rule| Op::AddFilter { name: name.clone(), preference, filter: Filter::Mark(rule) };
    let stranger = MarkRule { of: Packets::TcpTo(rng.u16(1024..)), priority: Priority::HEARTBEAT };
    filter(vec![add(rng.u16(100..), stranger)]);
    for preference in filters.keys().copied() {
        let remove = Op::RemoveFilter { name: name.clone(), preference };
        filter(vec![remove.clone()]);
        filter(vec![remove, add(preference, stranger)]);
    }
}

/// A first come, first served queue.
fn plain() -> Queue {
    Queue::Other { kind: "pfifo".to_owned(), options: Vec::new(), whole: true }
}
