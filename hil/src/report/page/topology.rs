//! The picture of the cabling: two rooms side by side, the third place above them.
//!
//! ```text
//!   ┌ third place: spine, witness ┐
//!   ┌ room 1 ─────┐ ┌ room 2 ─────┐
//!   │╭─ switch    ┼╌┼    switch ─╮│   ╌ inferred: NICs on both switches are on the same storage network
//!   │├─ node NIC  │ │  NIC node ─┤│   ─ heard (LLDP)
//! ```
//! Every switch has a rail at the outer edge of its room, to which its NICs are joined, so that no cable runs across a box.
//!
//! Invariants: a switch stands in the room that has most NICs on it; one that no room's NIC sees stands in the third
//! place. Room links can't be heard by a NIC: they are drawn broken, and the legend says so.

use crate::events::{CabledNic, CabledNode, Topology};
use markup::{Element, classed, el};
use std::collections::{BTreeMap, BTreeSet};

const MARGIN: u32 = 8;
const HEAD: u32 = 24;
const SWITCH: u32 = 36;
const NIC: u32 = 17;
const BETWEEN: u32 = 8;
/// Pixels from one rail to the next.
const RAIL: u32 = 8;
/// Pixels of a character: the pictures' text is monospaced.
const CHARACTER: u32 = 6;

/// A picture is drawn twice: the style sheet shows the one that fits.
#[derive(Debug, Clone, Copy)]
pub(super) enum Width {
    Phone,
    Desktop,
}

impl Width {
    fn pixels(self) -> u32 {
        match self {
            Self::Phone => 320,
            Self::Desktop => 920,
        }
    }

    /// Between the rooms.
    fn gap(self) -> u32 {
        match self {
            Self::Phone => 18,
            Self::Desktop => 160,
        }
    }
}

/// A switch as the NICs see it.
#[derive(Debug)]
struct Switch<'a> {
    chassis: &'a str,
    name: &'a str,
    storage_networks: BTreeSet<u8>,
}

/// A room and what stands in it.
#[derive(Debug)]
struct Room<'a> {
    name: Option<&'a str>,
    switches: Vec<Switch<'a>>,
    nodes: Vec<&'a CabledNode>,
}

/// Where a switch was drawn.
#[derive(Debug, Clone, Copy)]
struct Place {
    room: usize,
    /// The edges of its box.
    left: u32,
    right: u32,
    /// The middle of its box.
    y: u32,
    rail: u32,
    /// Its number in its room: its colour.
    number: usize,
}

/// Draws the cabling.
pub(super) fn draw(topology: &Topology, width: Width) -> Element {
    let rooms = rooms(topology);
    let (third, rooms): (Vec<Room<'_>>, Vec<Room<'_>>) =
        rooms.into_iter().partition(|room| room.name.is_none());
    let mut picture = Picture { width, shapes: Vec::new(), across: Vec::new(), places: BTreeMap::new() };
    let mut y = MARGIN;
    if let Some(third) = third.first() {
        y = picture.third_place(third, rooms.len(), y);
    }
    let count = u32::try_from(rooms.len()).unwrap_or(1).max(1);
    let room_width = (width.pixels() - width.gap() * (count - 1)) / count;
    let mut bottom = y;
    for (number, room) in rooms.iter().enumerate() {
        let x = number as u32 * (room_width + width.gap());
        picture.place_switches(room, number, (x, y, room_width));
        bottom = bottom.max(y + HEAD + height_of(room));
    }
    for (number, room) in rooms.iter().enumerate() {
        let x = number as u32 * (room_width + width.gap());
        picture.room(room, number, (x, y, room_width, bottom - y + MARGIN));
    }
    picture.room_links(&rooms);
    finish(picture, topology, &rooms, bottom + 2 * MARGIN)
}

fn finish(picture: Picture<'_>, topology: &Topology, rooms: &[Room<'_>], height: u32) -> Element {
    let class = match picture.width {
        Width::Phone => "topology phone",
        Width::Desktop => "topology desktop",
    };
    let switches = picture.places.len();
    let names: Vec<&str> = rooms.iter().filter_map(|room| room.name).collect();
    classed("svg", class)
        .with("viewBox", format!("0 0 {} {height}", picture.width.pixels()))
        .with("role", "img")
        .child(el("title").text("The cabling as the switches announce it"))
        .child(el("desc").text(format!(
            "{} machines in {} and a third place, on {switches} switches; {}. The table below says the same.",
            topology.nodes.len(),
            names.join(" and "),
            topology.wiring
        )))
        .all(picture.shapes)
        .all(picture.across)
}

/// Who stands where. The third place, if there is anything in it, has no name.
fn rooms(topology: &Topology) -> Vec<Room<'_>> {
    let mut rooms: Vec<Room<'_>> = Vec::new();
    for node in &topology.nodes {
        let zone = node.zone.as_deref();
        match rooms.iter_mut().find(|room| room.name == zone) {
            Some(room) => room.nodes.push(node),
            None => rooms.push(Room { name: zone, switches: Vec::new(), nodes: vec![node] }),
        }
    }
    let mut seen: BTreeMap<&str, (Switch<'_>, BTreeMap<Option<&str>, usize>)> = BTreeMap::new();
    for (node, nic) in topology.nodes.iter().flat_map(|node| node.nics.iter().map(move |nic| (node, nic))) {
        let Some(port) = &nic.port else { continue };
        let switch = Switch {
            chassis: &port.chassis,
            name: port.name.as_deref().unwrap_or(&port.chassis),
            storage_networks: BTreeSet::new(),
        };
        let (switch, votes) = seen.entry(&port.chassis).or_insert((switch, BTreeMap::new()));
        switch.storage_networks.extend(&nic.storage_networks);
        *votes.entry(node.zone.as_deref()).or_default() += 1;
    }
    for (switch, votes) in seen.into_values() {
        // The nodes decide; of equals the first.
        let zones = votes.iter().filter(|(zone, _)| zone.is_some());
        let most = zones.rev().max_by_key(|(_, count)| **count).and_then(|(zone, _)| *zone);
        if let Some(room) = rooms.iter_mut().find(|room| room.name == most) {
            room.switches.push(switch);
        }
    }
    for room in &mut rooms {
        let first = |switch: &Switch<'_>| switch.storage_networks.first().copied().unwrap_or(u8::MAX);
        room.switches.sort_by(|a, b| (first(a), a.name).cmp(&(first(b), b.name)));
    }
    rooms
}

fn nodes_height(node: &CabledNode) -> u32 {
    20 + NIC * node.nics.len() as u32 + BETWEEN
}

fn height_of(room: &Room<'_>) -> u32 {
    let switches = room.switches.len() as u32 * (SWITCH + BETWEEN);
    switches + BETWEEN + room.nodes.iter().map(|node| nodes_height(node)).sum::<u32>()
}

struct Picture<'a> {
    width: Width,
    shapes: Vec<Element>,
    /// Cables from one room to the other: drawn last, or a room would hide them.
    across: Vec<Element>,
    places: BTreeMap<&'a str, Place>,
}

impl<'a> Picture<'a> {
    /// The third place: its switches at the left, its machines at the right. Returns where the rooms begin.
    fn third_place(&mut self, third: &Room<'a>, rooms: usize, top: u32) -> u32 {
        let all = self.width.pixels();
        let half = all / 2;
        let switches = third.switches.len() as u32 * (SWITCH + BETWEEN);
        let machines: u32 = third.nodes.iter().map(|node| nodes_height(node)).sum();
        let height = HEAD + switches.max(machines) + MARGIN;
        self.panel("third place", (0, top, all, height));
        for (number, switch) in third.switches.iter().enumerate() {
            let y = top + HEAD + number as u32 * (SWITCH + BETWEEN);
            let place = Place {
                room: usize::MAX,
                left: MARGIN,
                right: half - 20,
                y: y + SWITCH / 2,
                rail: half - 12,
                number: 4,
            };
            self.switch(switch, place);
        }
        let mut y = top + HEAD;
        for node in &third.nodes {
            self.node(node, (half, y, half - MARGIN), usize::MAX, true);
            y += nodes_height(node);
        }
        let below = top + height + 18;
        if !third.switches.is_empty() && rooms > 0 {
            let count = rooms as u32;
            for room in 0..count {
                let x = (2 * room + 1) * all / (2 * count);
                self.line("inferred spine", (x, top + height, x, below));
                let text = classed("text", "minor").with("x", x + 6).with("y", top + height + 13);
                self.shapes.push(text.text("spine"));
            }
        }
        below
    }

    /// Fixes where the switches of a room are drawn.
    fn place_switches(&mut self, room: &Room<'a>, number: usize, (x, y, width): (u32, u32, u32)) {
        let count = room.switches.len() as u32;
        let channel = channel(room);
        for (at, switch) in room.switches.iter().enumerate() {
            // The first switch has the outermost rail: no rail then crosses another's way in.
            let from_edge = 6 + RAIL * at as u32;
            let outer_left = number == 0;
            let (left, right) = inner(outer_left, x, width, channel);
            let rail = if outer_left { x + from_edge } else { x + width - from_edge };
            let y = y + HEAD + at as u32 * (SWITCH + BETWEEN) + SWITCH / 2;
            let place = Place { room: number, left, right, y, rail, number: at.min(3) };
            self.places.insert(switch.chassis, place);
        }
        debug_assert!(count == 0 || channel > 0);
    }

    fn room(&mut self, room: &Room<'a>, number: usize, (x, y, width, height): (u32, u32, u32, u32)) {
        self.panel(room.name.unwrap_or_default(), (x, y, width, height));
        for switch in &room.switches {
            if let Some(place) = self.places.get(switch.chassis).copied() {
                self.switch(switch, place);
            }
        }
        let (left, right) = inner(number == 0, x, width, channel(room));
        let mut top = y + HEAD + room.switches.len() as u32 * (SWITCH + BETWEEN) + BETWEEN;
        for node in &room.nodes {
            self.node(node, (left, top, right - left), number, number == 0);
            top += nodes_height(node);
        }
    }

    fn panel(&mut self, name: &str, (x, y, width, height): (u32, u32, u32, u32)) {
        self.shapes.push(box_at("panel", (x, y, width, height)));
        let text = classed("text", "place").with("x", x + MARGIN).with("y", y + 16);
        self.shapes.push(text.text(fit(name, width / CHARACTER)));
    }

    fn switch(&mut self, switch: &Switch<'a>, place: Place) {
        self.places.insert(switch.chassis, place);
        let (x, y, width) = (place.left, place.y - SWITCH / 2, place.right - place.left);
        let room = (width - 12) / CHARACTER;
        let second = if switch.name == switch.chassis { String::new() } else { fit(switch.chassis, room) };
        let outer = if place.rail < place.left { place.left } else { place.right };
        if place.rail != outer {
            self.line(&format!("cable s{}", place.number), (place.rail, place.y, outer, place.y));
        }
        let texts = [
            classed("text", "name").with("x", x + 8).with("y", y + 15).text(fit(switch.name, room)),
            classed("text", "minor").with("x", x + 8).with("y", y + 29).text(second),
        ];
        let title = el("title").text(format!("switch {} ({})", switch.name, switch.chassis));
        let shape = box_at(&format!("switch s{}", place.number), (x, y, width, SWITCH));
        self.shapes.push(el("g").child(title).child(shape).all(texts));
    }

    fn node(&mut self, node: &CabledNode, (x, y, width): (u32, u32, u32), room: usize, outer_left: bool) {
        self.shapes.push(box_at("node", (x, y, width, nodes_height(node) - BETWEEN)));
        let name = classed("text", "name").with("x", x + 8).with("y", y + 15);
        self.shapes.push(name.text(fit(&node.node, (width - 12) / CHARACTER)));
        for (number, nic) in node.nics.iter().enumerate() {
            let y = y + 20 + NIC * number as u32;
            self.nic(node, nic, (x, y, width), room, outer_left);
        }
    }

    fn nic(
        &mut self,
        node: &CabledNode,
        nic: &CabledNic,
        (x, y, width): (u32, u32, u32),
        room: usize,
        outer_left: bool,
    ) {
        let middle = y + 7;
        let place = nic.port.as_ref().and_then(|port| self.places.get(port.chassis.as_str()).copied());
        let outer = if outer_left { x } else { x + width };
        match place {
            Some(place) if place.room == room => {
                self.line(&format!("cable s{}", place.number), (place.rail, middle, outer, middle));
                self.line(&format!("cable s{}", place.number), (place.rail, place.y, place.rail, middle));
                self.shapes.push(dot(&format!("dot s{}", place.number), place.rail, middle));
                self.shapes.push(dot(&format!("dot s{}", place.number), outer, middle));
            }
            // Cabled to the other room: straight across.
            Some(place) => {
                let from = if place.left > x { x + width } else { x };
                let to = if place.left > x { place.left } else { place.right };
                let line = line(&format!("cable across s{}", place.number), (from, middle, to, place.y));
                let ends = [(from, middle), (to, place.y)];
                let dots = ends.map(|(x, y)| dot(&format!("dot s{}", place.number), x, y));
                self.across.push(line);
                self.across.extend(dots);
            }
            None => self.shapes.push(dot("dot none", outer, middle)),
        }
        let characters = (width - 16) / CHARACTER;
        let missing = if characters < 24 { "none" } else { "no neighbour" };
        let port = nic.port.as_ref().map_or(missing, |port| port.port.as_str());
        let shown = fit(&short(port, characters / 2), characters * 3 / 5);
        let left = characters.saturating_sub(shown.chars().count() as u32 + 1);
        let texts = [
            classed("text", "nic").with("x", x + 8).with("y", middle + 4).text(fit(&nic.adapter, left)),
            classed("text", if nic.port.is_some() { "port" } else { "port missing" })
                .with("x", x + width - 8)
                .with("y", middle + 4)
                .text(shown),
        ];
        let seen = nic.port.as_ref().map_or("sees no neighbour".to_owned(), |port| {
            let name = port.name.as_deref().unwrap_or_default();
            format!("on switch {name} ({}) port {}", port.chassis, port.port)
        });
        let title = format!("{} {} ({}) {seen}", node.node, nic.adapter, nic.kernel_name);
        self.shapes.push(el("g").child(el("title").text(title)).all(texts));
    }

    /// Between the switches of two rooms whose NICs are on the same storage network.
    fn room_links(&mut self, rooms: &[Room<'a>]) {
        let [first, second] = rooms else { return };
        let mut drawn: BTreeMap<(&str, &str), u32> = BTreeMap::new();
        for (one, other) in
            first.switches.iter().flat_map(|one| second.switches.iter().map(move |other| (one, other)))
        {
            for network in one.storage_networks.intersection(&other.storage_networks) {
                let (Some(a), Some(b)) = (self.places.get(one.chassis), self.places.get(other.chassis))
                else {
                    continue;
                };
                let before = drawn.entry((one.chassis, other.chassis)).or_default();
                let (y1, y2, from, to) = (a.y + *before * 14, b.y + *before * 14, a.right, b.left);
                *before += 1;
                self.line("inferred room-link", (from, y1, to, y2));
                let (x, y) = (from.midpoint(to), y1.midpoint(y2));
                let (words, up) = match self.width {
                    Width::Phone => (network.to_string(), 4),
                    Width::Desktop => (format!("storage network {network}"), 5),
                };
                let text = classed("text", "between").with("x", x).with("y", y - up).text(words);
                self.shapes.push(text);
            }
        }
    }

    fn line(&mut self, class: &str, ends: (u32, u32, u32, u32)) {
        self.shapes.push(line(class, ends));
    }
}

fn line(class: &str, (x1, y1, x2, y2): (u32, u32, u32, u32)) -> Element {
    classed("line", class).with("x1", x1).with("y1", y1).with("x2", x2).with("y2", y2)
}

/// Pixels that the rails of a room take.
fn channel(room: &Room<'_>) -> u32 {
    8 + RAIL * room.switches.len() as u32
}

/// The left and the right edge of what stands in a room beside the rails.
fn inner(outer_left: bool, x: u32, width: u32, channel: u32) -> (u32, u32) {
    if outer_left { (x + channel, x + width - MARGIN) } else { (x + MARGIN, x + width - channel) }
}

fn box_at(class: &str, (x, y, width, height): (u32, u32, u32, u32)) -> Element {
    let shape = classed("rect", class).with("x", x).with("y", y);
    shape.with("width", width).with("height", height).with("rx", 4)
}

fn dot(class: &str, x: u32, y: u32) -> Element {
    classed("circle", class).with("cx", x).with("cy", y).with("r", 3)
}

/// `Ethernet1/31` as `Eth1/31`, where the whole has no place.
fn short(port: &str, characters: u32) -> String {
    let letters = port.chars().take_while(char::is_ascii_alphabetic).count();
    if port.chars().count() > characters as usize && letters > 3 {
        format!("{}{}", &port[..3], &port[letters..])
    } else {
        port.to_owned()
    }
}

/// Text that fits; what is cut off is said whole where one points at it, and in the table.
fn fit(text: &str, characters: u32) -> String {
    let characters = characters.max(2) as usize;
    if text.chars().count() <= characters {
        return text.to_owned();
    }
    text.chars().take(characters - 1).chain(['…']).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::events::Event;
    use crate::report::story::tests::example;

    fn topology() -> Topology {
        let found = example().into_iter().find_map(|record| match record.event {
            Event::Topology(topology) => Some(topology),
            _ => None,
        });
        found.unwrap()
    }

    #[test]
    fn switches_stand_where_most_of_their_nics_are() {
        let mut topology = topology();
        let names = |topology: &Topology| -> Vec<Vec<String>> {
            let room = |room: &Room<'_>| room.switches.iter().map(|s| s.name.to_owned()).collect();
            rooms(topology).iter().map(room).collect()
        };
        assert_eq!(names(&topology), [vec!["sw-a1", "sw-a2"], vec!["sw-b1", "sw-b2"], vec!["sw-ee"]]);
        // One NIC in the other room moves no switch.
        topology.nodes[0].nics[0].port = topology.nodes[1].nics[0].port.clone();
        assert_eq!(names(&topology), [vec!["sw-a1", "sw-a2"], vec!["sw-b1", "sw-b2"], vec!["sw-ee"]]);
        let drawn = draw(&topology, Width::Desktop).to_string();
        assert_eq!(drawn.matches("cable across").count(), 1);
        assert_eq!(drawn.matches("room-link").count(), 2);
    }

    #[test]
    fn what_does_not_fit_is_cut_and_not_drawn_over_its_neighbour() {
        assert_eq!(
            (short("Ethernet1/31", 8), short("Ethernet1/31", 12)),
            ("Eth1/31".into(), "Ethernet1/31".into())
        );
        assert_eq!(
            (fit("häuser", 4), fit("ab", 0), fit("abc", 0)),
            ("häu…".into(), "ab".into(), "a…".into())
        );
        let drawn = draw(&topology(), Width::Phone).to_string();
        assert!(drawn.contains(">Eth1/2<"), "{drawn}");
    }

    #[test]
    fn nothing_at_all_is_drawn_without_trouble() {
        let nothing = Topology { wiring: String::new(), nodes: Vec::new() };
        assert!(draw(&nothing, Width::Phone).to_string().contains("<svg"));
        let mut topology = topology();
        for nic in topology.nodes.iter_mut().flat_map(|node| &mut node.nics) {
            nic.port = None;
        }
        assert_eq!(draw(&topology, Width::Phone).to_string().matches(">none<").count(), 7);
    }
}
