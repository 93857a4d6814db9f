//! The page: what is not well first, then the racks side by side, then everything else in tables. Pure.
//!
//! Invariants: one file without script or outside reference; names stay text (`markup`); nothing is said by colour alone.

use crate::shown::size;
use crate::status::seen::{CopySeen, NodeSeen, Standing, Status, VolumeSeen};
use crate::vm::shown::{COLUMNS, Row};
use control::State;
use control::state::Health;
use deploy::verify::Check;
use markup::{Element, classed, document, el};
use std::fmt::Display;

const STYLE: &str = include_str!("style.css");

/// What there is to show.
pub(super) struct Report<'a> {
    pub(super) status: &'a Status,
    pub(super) checks: &'a [Check],
    /// What the ledger says, by the word of a quorum.
    pub(super) ledger: Option<&'a State>,
    pub(super) at: jiff::Timestamp,
}

impl Report<'_> {
    pub(super) fn page(&self) -> String {
        let main = el("main")
            .child(self.head())
            .all(troubles(self.status))
            .child(racks(self.status))
            .child(copies(self.status))
            .child(volumes(self.status))
            .all(self.ledger.map(drives))
            .all(vms(self.status))
            .child(checks(self.checks));
        document("twinrack cluster", STYLE, &main)
    }

    fn head(&self) -> Element {
        let at = self.at.strftime("%Y-%m-%d %H:%M:%S UTC");
        let whose = if self.status.has_quorum {
            format!("as a quorum has it, {at}")
        } else {
            format!("no quorum answers: as {} last knew it, {at}", self.status.told_by)
        };
        el("header").child(el("h1").text(self.status.in_short())).child(classed("p", "quiet").text(whose))
    }
}

fn section(title: &str, content: impl IntoIterator<Item = Element>) -> Element {
    el("section").child(el("h2").text(title)).all(content)
}

fn table<const N: usize>(head: [&str; N], rows: impl IntoIterator<Item = [String; N]>) -> Element {
    let row = |kind: &'static str, cells: Vec<String>| {
        el("tr").all(cells.into_iter().map(|cell| el(kind).text(cell)))
    };
    let head = row("th", head.map(str::to_owned).into());
    classed("div", "wide")
        .child(el("table").child(head).all(rows.into_iter().map(|cells| row("td", cells.into()))))
}

fn troubles(status: &Status) -> Option<Element> {
    let all = status.troubles.iter().map(|trouble| el("li").text(trouble));
    (!status.troubles.is_empty()).then(|| section("Not well", [classed("ul", "troubles").all(all)]))
}

/// The racks side by side, the witness behind them.
fn racks(status: &Status) -> Element {
    let card = |title: &dyn Display, nodes: &[NodeSeen]| {
        let node = |node: &NodeSeen| {
            classed("div", if node.answers { "node" } else { "node silent" })
                .child(el("h3").text(&node.name))
                .child(el("p").text(node.roles()))
                .child(classed("p", "quiet").text(node.room()))
        };
        classed("div", "rack").child(el("h2").text(title)).all(nodes.iter().map(node))
    };
    let racks = status.racks.iter().map(|rack| card(&rack.zone, &rack.nodes));
    let witness = (!status.witnesses.is_empty()).then(|| card(&"witness", &status.witnesses));
    classed("div", "racks").all(racks).all(witness)
}

/// Where the copies of each volume are: a row for each volume, a column for each node, rack by rack.
fn copies(status: &Status) -> Element {
    let nodes: Vec<(&str, &str)> = status
        .racks
        .iter()
        .flat_map(|rack| rack.nodes.iter().map(|node| (rack.zone.as_str(), node.name.as_str())))
        .collect();
    let of_rack = |zone: &str| nodes.iter().filter(|(rack, _)| *rack == zone).count();
    let racks =
        status.racks.iter().map(|rack| el("th").with("colspan", of_rack(&rack.zone)).text(&rack.zone));
    let first = el("tr").child(el("th")).all(racks);
    let second =
        el("tr").child(el("th").text("volume")).all(nodes.iter().map(|(_, node)| el("th").text(node)));
    let row = |volume: &VolumeSeen| {
        let cell = |(_, node): &(&str, &str)| {
            let here: Vec<&CopySeen> = volume.copies.iter().filter(|copy| copy.node == *node).collect();
            let mark = |copy: &&CopySeen| {
                classed("span", class(copy.standing)).with("title", copy.in_words()).text(sign(copy.standing))
            };
            let owns = (volume.owner == *node).then(|| classed("span", "owner").text("owner"));
            el("td").all(here.iter().map(mark)).all(owns)
        };
        el("tr").child(el("th").text(&volume.name)).all(nodes.iter().map(cell))
    };
    let legend = "● in sync  ◐ being brought up to date  ○ behind  ? may have lost something";
    let all = el("table").child(first).child(second).all(status.volumes.iter().map(row));
    section("Copies", [classed("div", "wide").child(all), classed("p", "quiet").text(legend)])
}

fn sign(standing: Standing) -> &'static str {
    match standing {
        Standing::InSync => "●",
        Standing::Rebuilding => "◐",
        Standing::Behind => "○",
        Standing::Suspect => "?",
    }
}

fn class(standing: Standing) -> &'static str {
    if standing == Standing::InSync { "good" } else { "bad" }
}

fn volumes(status: &Status) -> Element {
    let rows = status.volumes.iter().map(|volume| {
        let copies: Vec<String> =
            volume.copies.iter().map(|copy| format!("{}: {}", copy.rack, copy.in_words())).collect();
        let VolumeSeen { id, name, size_bytes, phase, owner, .. } = volume;
        [name.clone(), id.clone(), size(*size_bytes), phase.clone(), owner.clone(), copies.join("; ")]
    });
    section("Volumes", [table(["volume", "id", "size", "phase", "owner", "copies"], rows)])
}

fn drives(ledger: &State) -> Element {
    let rows = ledger.drives.iter().map(|(id, drive)| {
        let node = ledger
            .nodes
            .get(&drive.node)
            .map_or_else(|| drive.node.to_string(), |node| node.name.to_string());
        let legs = ledger
            .volumes
            .values()
            .flat_map(|volume| volume.legs.values())
            .filter(|leg| leg.drive == *id)
            .count();
        let health = match drive.health {
            Health::Good => "good",
            Health::Slow => "slow",
            Health::Erred => "reported an error",
            Health::Lost => "lost",
        };
        let retired = if drive.retired { ", retired" } else { "" };
        [
            node,
            drive.serial.to_string(),
            id.to_string(),
            size(drive.size_bytes),
            format!("{health}{retired}"),
            legs.to_string(),
        ]
    });
    section("Drives", [table(["node", "serial number", "id", "size", "health", "copies"], rows)])
}

fn vms(status: &Status) -> Option<Element> {
    let rows = status.vms.iter().map(Row::cells);
    (!status.vms.is_empty()).then(|| section("Virtual machines", [table(COLUMNS, rows)]))
}

fn checks(checks: &[Check]) -> Element {
    let rows = checks.iter().map(|check| {
        let word = if check.holds() { "holds" } else { "DOES NOT HOLD" };
        let found = std::iter::once(check.found.clone()).chain(check.wrong.iter().cloned());
        [check.id.to_owned(), word.to_owned(), check.asks.to_owned(), found.collect::<Vec<_>>().join("; ")]
    });
    section("Checks", [table(["check", "", "what has to hold", "found"], rows)])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::status::seen::tests::{a_rack_is_lost, well};

    fn page(status: &Status) -> String {
        let check = |id, wrong: &[&str]| Check {
            id,
            asks: "it is so",
            found: "3 nodes".to_owned(),
            each: Vec::new(),
            wrong: wrong.iter().map(|&text| text.to_owned()).collect(),
        };
        let checks = [check("nodes", &[]), check("storage-paths", &["a1 hears <nobody>"])];
        Report { status, checks: &checks, ledger: None, at: jiff::Timestamp::UNIX_EPOCH }.page()
    }

    #[test]
    fn the_page_shows_what_is_and_what_is_not_well() {
        let text = page(&a_rack_is_lost());
        let body = text.split("<body>").nth(1).unwrap();
        insta::assert_snapshot!(body);
        assert!(!page(&well()).contains("Not well"));
    }

    #[test]
    fn it_needs_nothing_but_itself() {
        let text = page(&well());
        for outside in ["http://", "https://", "<script", "@import", "url("] {
            assert!(!text.contains(outside), "{outside}");
        }
    }
}
