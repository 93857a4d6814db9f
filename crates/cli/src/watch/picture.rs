//! How a cluster is drawn: racks side by side, volumes and virtual machines under them, what is not well at the end. Pure.
//!
//! Invariant: nothing is said by colour alone. What does not fit is cut at the right and at the bottom; troubles keep their place before volumes.

use crate::shown::size;
use crate::status::seen::{CopySeen, NodeSeen, Standing, Status, VolumeSeen};
use crate::vm::shown::COLUMNS;
use ratatui::buffer::Buffer;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Style, Stylize};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Block, Paragraph, Row, Table, Widget, Wrap};

/// A look that is so old is said to be old, seconds.
const OLD_S: u64 = 3;
/// Troubles that are shown at most; the rest are counted.
const TROUBLES_MAX: usize = 8;

/// What there is to draw.
#[derive(Debug)]
pub(super) struct Picture<'a> {
    /// The last that was seen.
    pub(super) status: Option<&'a Status>,
    /// How many nodes were asked.
    pub(super) asked: usize,
    /// How long ago it was seen, seconds.
    pub(super) age_s: u64,
}

impl Widget for &Picture<'_> {
    fn render(self, area: Rect, buffer: &mut Buffer) {
        let Some(status) = self.status else {
            let text = format!("asks {} nodes; none has answered yet. q ends this", self.asked);
            return Paragraph::new(text).render(area, buffer);
        };
        let nodes =
            status.racks.iter().map(|rack| rack.nodes.len()).max().unwrap_or(0).max(status.witnesses.len());
        let troubles = status.troubles.len().min(TROUBLES_MAX + 1);
        let heights = [
            Constraint::Length(1),
            Constraint::Length(height(2 * nodes)),
            Constraint::Length(if troubles == 0 { 0 } else { height(troubles) }),
            Constraint::Fill(weight(status.volumes.len())),
            if status.vms.is_empty() {
                Constraint::Length(0)
            } else {
                Constraint::Fill(weight(status.vms.len()))
            },
            Constraint::Length(1),
        ];
        let [head, racks, wrong, volumes, vms, foot] = Layout::vertical(heights).areas(area);
        self.head(status).render(head, buffer);
        draw_racks(status, racks, buffer);
        if troubles > 0 {
            not_well(status).render(wrong, buffer);
        }
        volume_table(status).render(volumes, buffer);
        if !status.vms.is_empty() {
            vm_table(status).render(vms, buffer);
        }
        Line::from("\u{25cf} in sync  \u{25d0} being brought up to date  \u{25cb} behind  \u{2715} suspect   * owner   q ends this")
            .dim()
            .render(foot, buffer);
    }
}

impl Picture<'_> {
    fn head(&self, status: &Status) -> Line<'static> {
        let style = if status.troubles.is_empty() { Style::new().green() } else { Style::new().red() };
        let mut line = Line::from(vec![
            Span::from(if status.troubles.is_empty() { "\u{25cf} " } else { "! " }).style(style.bold()),
            Span::from(status.in_short()).bold(),
        ]);
        if self.age_s >= OLD_S {
            line.push_span(Span::from(format!("  (seen {} s ago; nobody answers)", self.age_s)).red());
        }
        line
    }
}

/// So many lines within a frame.
fn height(lines: usize) -> u16 {
    u16::try_from(lines).unwrap_or(u16::MAX).saturating_add(2)
}

/// What a table of so many rows gets of the room that is left, compared with others.
fn weight(rows: usize) -> u16 {
    height(rows).saturating_add(1)
}

/// The racks side by side; the witness, which is in none, at the right.
fn draw_racks(status: &Status, area: Rect, buffer: &mut Buffer) {
    let shares = status.racks.iter().map(|_| Constraint::Fill(1)).chain([Constraint::Length(26)]);
    let areas = Layout::horizontal(shares).split(area);
    let racks = status.racks.iter().map(|rack| (rack.zone.as_str(), &rack.nodes));
    for ((title, nodes), area) in racks.chain([("witness", &status.witnesses)]).zip(areas.iter()) {
        let lines: Vec<Line<'_>> = nodes.iter().flat_map(node_lines).collect();
        Paragraph::new(lines).block(Block::bordered().title(title)).render(*area, buffer);
    }
}

fn node_lines(node: &NodeSeen) -> [Line<'_>; 2] {
    let (mark, colour) = if node.answers { ("\u{25cf} ", Color::Green) } else { ("\u{2715} ", Color::Red) };
    let name = Span::from(node.name.as_str()).bold();
    let what = [Span::from(mark).fg(colour), name, Span::from("  "), Span::from(node.roles())];
    [Line::from(what.to_vec()), Line::from(format!("  {}", node.room())).dim()]
}

fn not_well(status: &Status) -> Paragraph<'_> {
    let mut lines: Vec<Line<'_>> =
        status.troubles.iter().take(TROUBLES_MAX).map(|trouble| Line::from(trouble.as_str())).collect();
    if let Some(more) = status.troubles.len().checked_sub(TROUBLES_MAX).filter(|more| *more > 0) {
        lines.push(Line::from(format!("and {more} more")));
    }
    Paragraph::new(lines).wrap(Wrap { trim: true }).block(Block::bordered().title("not well").red())
}

fn volume_table(status: &Status) -> Table<'_> {
    let zones: Vec<&str> = status.racks.iter().map(|rack| rack.zone.as_str()).collect();
    let head = ["volume", "size", ""].into_iter().chain(zones.iter().copied());
    let rows = status.volumes.iter().map(|volume| {
        let phase =
            if volume.is_open { Span::from("open").green() } else { Span::from(volume.phase.as_str()) };
        let cells =
            [Line::from(volume.name.as_str()).bold(), Line::from(size(volume.size_bytes)), Line::from(phase)];
        Row::new(cells.into_iter().chain(zones.iter().map(|zone| copies_line(volume, zone))))
    });
    let widths = [Constraint::Length(20), Constraint::Length(10), Constraint::Length(10)];
    Table::new(rows, widths.into_iter().chain(zones.iter().map(|_| Constraint::Fill(1))))
        .header(Row::new(head).dim())
        .block(Block::bordered().title("volumes"))
}

fn vm_table(status: &Status) -> Table<'_> {
    let rows = status.vms.iter().map(|vm| {
        let [name, wanted, phase, node, home, placement] = vm.cells();
        let runs = phase == "running";
        let is_so = wanted == "running" && runs || wanted == "stopped" && phase == "off";
        let phase = if is_so { Span::from(phase).green() } else { Span::from(phase).yellow() };
        let cells = [Line::from(name).bold(), Line::from(wanted), Line::from(phase)];
        Row::new(cells.into_iter().chain([node, home, placement].map(Line::from)))
    });
    let widths = [20, 10, 20, 24, 12].map(Constraint::Length).into_iter().chain([Constraint::Fill(1)]);
    Table::new(rows, widths)
        .header(Row::new(COLUMNS.map(str::to_lowercase)).dim())
        .block(Block::bordered().title("virtual machines"))
}

fn copies_line<'a>(volume: &'a VolumeSeen, zone: &str) -> Line<'a> {
    let copies = volume.copies.iter().filter(|copy| copy.rack == zone);
    let parts = copies.flat_map(|copy| {
        let (mark, colour) = mark(copy.standing);
        let owner = if copy.node == volume.owner { "*" } else { "" };
        [Span::from(mark).fg(colour), Span::from(format!(" {}{owner}{}   ", copy.node, far(copy)))]
    });
    Line::from(parts.collect::<Vec<_>>())
}

fn far(copy: &CopySeen) -> String {
    copy.percent.map(|percent| format!(" {percent} %")).unwrap_or_default()
}

fn mark(standing: Standing) -> (&'static str, Color) {
    match standing {
        Standing::InSync => ("\u{25cf}", Color::Green),
        Standing::Rebuilding => ("\u{25d0}", Color::Yellow),
        Standing::Behind => ("\u{25cb}", Color::Yellow),
        Standing::Suspect => ("\u{2715}", Color::Red),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::status::seen::tests::{a_rack_is_lost, well};
    use ratatui::Terminal;
    use ratatui::backend::TestBackend;

    fn drawn(status: Option<&Status>, age_s: u64, (width, height): (u16, u16)) -> String {
        let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
        let picture = Picture { status, asked: 3, age_s };
        terminal.draw(|frame| frame.render_widget(&picture, frame.area())).unwrap();
        terminal.backend().to_string()
    }

    #[test]
    fn racks_stand_side_by_side() {
        insta::assert_snapshot!("well", drawn(Some(&well()), 0, (110, 18)));
        insta::assert_snapshot!("a_rack_is_lost", drawn(Some(&a_rack_is_lost()), 0, (110, 26)));
    }

    #[test]
    fn nobody_answers_yet_or_any_more() {
        assert!(drawn(None, 0, (80, 3)).contains("asks 3 nodes; none has answered yet"));
        assert!(!drawn(Some(&well()), OLD_S - 1, (120, 14)).contains("nobody answers"));
        assert!(drawn(Some(&well()), OLD_S, (120, 14)).contains("seen 3 s ago; nobody answers"));
    }

    #[test]
    fn a_terminal_too_small_is_drawn_on_as_far_as_it_goes() {
        for size in [(1, 1), (10, 3), (40, 5), (20, 60)] {
            drawn(Some(&a_rack_is_lost()), 9, size);
        }
    }
}
