//! What pairs of nodes that have the same trouble on a storage network have in common.
//!
//! A pair is two nodes, whichever of them noticed. Where all of a switch's pairs have it, it is the switch, which takes two nodes
//! on it to say so (three where nobody is beyond it); where all of a NIC's have it, and the same pairs of a neighbour don't, it
//! is the NIC; where all between the rooms have it, what joins the rooms. What is left is said pair by pair.

use super::Place;
use crate::lldp::ChassisId;
use crate::wiring::{Connection, NodeCabling};
use model::{NodeName, StorageNetwork, ZoneName};
use std::collections::{BTreeMap, BTreeSet};

/// Two nodes, in their order.
pub(super) type Pair<'a> = (&'a NodeName, &'a NodeName);

pub(super) fn pair<'a>(one: &'a NodeName, other: &'a NodeName) -> Pair<'a> {
    if one <= other { (one, other) } else { (other, one) }
}

/// The zone of a node that was there in better days.
pub(super) fn zone<'a>(known_good: &'a [NodeCabling], node: &NodeName) -> Option<&'a Option<ZoneName>> {
    known_good.iter().find(|known| known.node == *node).map(|known| &known.zone)
}

/// The pairs of one storage network that are known of, and whether each has the trouble.
pub(super) struct Pairs<'a> {
    pub(super) network: &'a StorageNetwork,
    pub(super) troubled: BTreeMap<Pair<'a>, bool>,
    /// Nodes of each side of what joins the rooms; where one switch serves both, all in one.
    sides: Vec<Vec<&'a NodeName>>,
    switches: BTreeMap<&'a NodeName, &'a Connection>,
}

impl<'a> Pairs<'a> {
    pub(super) fn new(
        network: &'a StorageNetwork,
        known_good: &'a [NodeCabling],
        cables: &'a [Connection],
        troubled: BTreeMap<Pair<'a>, bool>,
    ) -> Self {
        let on_it = cables.iter().filter(|cable| cable.zone.is_some() && cable.adapter == network.adapter);
        let switches: BTreeMap<&NodeName, &Connection> = on_it.map(|cable| (&cable.node, cable)).collect();
        let known: BTreeSet<&NodeName> = troubled.keys().flat_map(|(one, other)| [*one, *other]).collect();
        let mut sides: BTreeMap<_, Vec<&NodeName>> = BTreeMap::new();
        for node in known_good.iter().filter(|node| known.contains(&node.node)) {
            sides.entry(&node.zone).or_default().push(&node.node);
        }
        let mut sides: Vec<Vec<&NodeName>> = sides.into_values().collect();
        let chassis: BTreeSet<&ChassisId> = switches.values().map(|cable| &cable.switch).collect();
        if chassis.len() == 1 {
            sides = vec![sides.concat()];
        }
        Self { network, troubled, sides, switches }
    }

    /// Where the trouble is, with the pairs that say so.
    pub(super) fn places(mut self) -> Vec<(Place, Vec<Pair<'a>>)> {
        let mut places = Vec::new();
        for side in self.sides.clone() {
            let enough = if self.sides.len() == 1 { 3 } else { 2 };
            let touching = self.that(|pair| side.contains(&pair.0) || side.contains(&pair.1));
            let inside = touching.iter().any(|pair| side.contains(&pair.0) && side.contains(&pair.1));
            let switch = side.first().and_then(|node| self.switches.get(*node));
            if let Some(switch) = switch.filter(|_| side.len() >= enough && inside && self.all(&touching)) {
                let (switch, name) = (switch.switch.clone(), switch.switch_name.clone());
                places.push((Place::Switch { switch, name }, touching));
            }
        }
        self.explained(&places);
        let nodes: Vec<&NodeName> = self.sides.concat();
        let nics: Vec<(Place, Vec<Pair<'a>>)> = nodes.into_iter().filter_map(|node| self.nic(node)).collect();
        self.explained(&nics);
        places.extend(nics);
        let room_link = self.room_link();
        self.explained(room_link.as_slice());
        places.extend(room_link);
        for pair in self.that(|_| true).into_iter().filter(|pair| self.troubled[pair]) {
            let (from, to) = (pair.0.clone(), pair.1.clone());
            places.push((Place::Path { network: self.network.index, from, to }, vec![pair]));
        }
        places
    }

    fn that(&self, holds: impl Fn(Pair<'a>) -> bool) -> Vec<Pair<'a>> {
        self.troubled.keys().copied().filter(|pair| holds(*pair)).collect()
    }

    fn all(&self, pairs: &[Pair<'a>]) -> bool {
        !pairs.is_empty() && pairs.iter().all(|pair| self.troubled[pair])
    }

    fn explained(&mut self, places: &[(Place, Vec<Pair<'a>>)]) {
        for pair in places.iter().flat_map(|(_, pairs)| pairs) {
            self.troubled.remove(pair);
        }
    }

    /// A NIC of which every pair has the trouble. It isn't what joins the rooms if a neighbour is concerned, or if a neighbour
    /// has no trouble there.
    fn nic(&self, node: &'a NodeName) -> Option<(Place, Vec<Pair<'a>>)> {
        let side = self.sides.iter().find(|side| side.contains(&node))?;
        let own = self.that(|pair| pair.0 == node || pair.1 == node);
        let is_mate = |other: &&NodeName| *other != node && side.contains(other);
        let with_mate = own.iter().any(|(one, other)| [one, other].into_iter().any(&is_mate));
        let mate_is_well = self
            .troubled
            .iter()
            .any(|((one, other), troubled)| !troubled && (is_mate(one) || is_mate(other)));
        // Of two nodes, either may be the one.
        let others_are_well = self.troubled.iter().any(|(pair, troubled)| !troubled && !own.contains(pair));
        (self.all(&own) && others_are_well && (with_mate || mate_is_well)).then(|| {
            let adapter = self.network.adapter.clone();
            (Place::Nic { node: node.clone(), adapter }, own)
        })
    }

    /// What joins the rooms.
    fn room_link(&self) -> Option<(Place, Vec<Pair<'a>>)> {
        let [one, other] = self.sides.as_slice() else { return None };
        let crosses = |pair: Pair<'a>| {
            one.contains(&pair.0) && other.contains(&pair.1)
                || other.contains(&pair.0) && one.contains(&pair.1)
        };
        let across = self.that(crosses);
        self.all(&across).then_some((Place::RoomLink { network: self.network.index }, across))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{cabling, neighbour, node_name, spec};
    use crate::wiring::connections;

    /// Where it is, on storage network 1 with so many nodes a room, when these pairs of nodes have the trouble.
    fn places(nodes_per_zone: u64, one_switch: bool, bad: impl Fn(u8, u8) -> bool) -> Vec<String> {
        let spec = spec(nodes_per_zone);
        let mut known_good = cabling(&spec);
        for node in known_good.iter_mut().filter(|_| one_switch) {
            let port = usize::from(node.nics[2].mac.0[4]);
            node.nics[2].neighbour = Some(neighbour(1, port, &[711]));
        }
        let cables = connections(&known_good);
        let numbers = 1..=2 * nodes_per_zone as u8;
        let names: BTreeMap<u8, NodeName> = numbers.map(|number| (number, node_name(number))).collect();
        let pairs = names.iter().flat_map(|one| names.iter().map(move |other| (one, other)));
        let pairs = pairs.filter(|(one, other)| one.0 < other.0);
        let troubled = pairs.map(|(one, other)| (pair(one.1, other.1), bad(*one.0, *other.0))).collect();
        let pairs = Pairs::new(&spec.storage_networks[0], &known_good, &cables, troubled);
        pairs.places().into_iter().map(|(place, _)| place.to_string()).collect()
    }

    #[test]
    fn what_all_pairs_of_something_have_is_that() {
        let none: [&str; 0] = [];
        assert_eq!(places(2, false, |_, _| false), none);
        assert_eq!(places(2, false, |one, _| one == 1), ["at Ethernet 3 of node n1 or its cable"]);
        assert_eq!(
            places(2, false, |one, other| one < 3 && other > 2),
            ["between the rooms on storage network 1"]
        );
        assert_eq!(places(2, false, |one, _| one < 3), ["through switch tor1 (02:00:00:00:ff:01)"]);
        assert_eq!(
            places(2, false, |one, other| (one, other) == (1, 4)),
            ["between n1 and n4 on storage network 1"]
        );
    }

    #[test]
    fn one_node_a_room_accuses_what_joins_the_rooms_and_two_on_one_switch_each_other() {
        assert_eq!(places(1, false, |_, _| true), ["between the rooms on storage network 1"]);
        assert_eq!(places(1, true, |_, _| true), ["between n1 and n2 on storage network 1"]);
        assert_eq!(places(2, true, |_, _| true), ["through switch tor1 (02:00:00:00:ff:01)"]);
        assert_eq!(places(2, true, |one, _| one == 1), ["at Ethernet 3 of node n1 or its cable"]);
    }
}
