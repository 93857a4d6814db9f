//! Reports for people: what the rules say, with excerpts of the template, and what the cluster would be.
//!
//! Needs the feature `render`. Pure like the rest: everything returns text, and the caller says whether colours suit.
//!
//! Invariants: excerpts come from [`Source::shown`], so no report shows a secret or a control character. Lines that are too long to be
//! read are not shown: the report names the place instead.

use crate::{Ignored, IgnoredKind, Problem, Reading, Source, Unreadable};
use miette::{GraphicalReportHandler, GraphicalTheme, LabeledSpan, NamedSource, SourceSpan};
use model::{ClusterSpec, Diagnostic, Intent, Location, Mirror, Severity, Shape, TrafficClass, Zone};
use std::fmt::{self, Write as _};

/// Columns that reports are folded at.
const WIDTH_COLUMNS: usize = 100;

/// Columns that stand in front of a folded paragraph at most (`  help: `).
const MARGIN_COLUMNS: usize = 8;

/// Everything about a template that was understood: diagnostics, what is ignored, the cluster if there is one, and a
/// closing line.
pub fn reading(source: &Source, reading: &Reading, colour: bool) -> String {
    let excerpts = Excerpts::new(source, colour);
    let mut out = String::new();
    for diagnostic in &reading.diagnostics {
        out.push_str(&excerpts.report(Shown::diagnostic(diagnostic)));
        out.push('\n');
    }
    out.push_str(&ignored(&reading.ignored));
    if let Some(spec) = &reading.spec {
        out.push_str(&summary(spec));
        out.push('\n');
    }
    out.push_str(&closing(source.name(), reading));
    out
}

/// Why a template can't be read. Without a source (the bytes were no text) there are no excerpts.
pub fn unreadable(source: Option<&Source>, unreadable: &Unreadable, colour: bool) -> String {
    let empty = Source::new(unreadable.name.as_str(), "");
    let excerpts = Excerpts::new(source.unwrap_or(&empty), colour);
    let mut out = String::new();
    for problem in &unreadable.problems {
        out.push_str(&excerpts.report(Shown::problem(problem)));
        out.push('\n');
    }
    let _ = writeln!(out, "{}: could not be checked", plain(&unreadable.name));
    out
}

fn closing(name: &str, reading: &Reading) -> String {
    let plural = |count: usize, word: &str| format!("{count} {word}{}", if count == 1 { "" } else { "s" });
    let errors = plural(reading.count(Severity::Error), "error");
    let more = if reading.unlisted == 0 {
        String::new()
    } else {
        format!(", and {} more that are not listed", reading.unlisted)
    };
    format!(
        "{} ({}): {errors}, {}{more}\n",
        plain(name),
        reading.format,
        plural(reading.count(Severity::Warning), "warning")
    )
}

/// What had no effect, one line for each reason.
pub fn ignored(ignored: &[Ignored]) -> String {
    let mut out = String::new();
    for (kind, title) in [
        (IgnoredKind::NotBuiltYet, "Asked for, and not built yet"),
        (IgnoredKind::Unknown, "Ignored, not known"),
        (IgnoredKind::SwitchedOff, "Ignored, switched off in the file"),
        (IgnoredKind::NoMeaningOnLinux, "Ignored, without meaning on Linux"),
    ] {
        let mut reasons: Vec<(&str, Vec<&str>)> = Vec::new();
        for item in ignored.iter().filter(|item| item.kind == kind) {
            match reasons.iter_mut().find(|(reason, _)| *reason == item.reason) {
                Some((_, paths)) => paths.push(&item.path),
                None => reasons.push((&item.reason, vec![&item.path])),
            }
        }
        if reasons.is_empty() {
            continue;
        }
        let _ = writeln!(out, "{title}:");
        for (reason, paths) in reasons {
            let _ = writeln!(out, "  {}", folded(&format!("{reason}: {}", plain(&paths.join(", "))), "    "));
        }
        out.push('\n');
    }
    out
}

/// Without control characters.
fn plain(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '?' } else { c }).collect()
}

/// A paragraph folded at spaces that are not inside backticks, so that what is quoted can be copied; all lines but the
/// first are indented.
fn folded(text: &str, indent: &str) -> String {
    let width = WIDTH_COLUMNS - MARGIN_COLUMNS;
    let mut out = String::new();
    let mut column = 0;
    let mut quoted = false;
    for word in text.split(' ') {
        let length = word.chars().count();
        if column > 0 && column + 1 + length > width && !quoted {
            out.push('\n');
            out.push_str(indent);
            column = indent.len();
        } else if column > 0 {
            out.push(' ');
            column += 1;
        }
        out.push_str(word);
        column += length;
        quoted ^= word.matches('`').count() % 2 == 1;
    }
    out
}

/// What the cluster would be, in a few lines.
pub fn summary(spec: &ClusterSpec) -> String {
    let mut lines = vec![("cluster", format!("{}, {}", spec.name, shape(spec.shape())))];
    lines.extend(spec.zones.iter().map(|zone| ("zone", nodes(zone))));
    let address = spec.witness.management_ip.map_or_else(String::new, |ip| format!(" {ip}"));
    lines.push(("witness", format!("{}{address}", spec.witness.name)));
    let management = &spec.management;
    let vlan = management.vlan.map_or_else(|| "untagged".to_owned(), |vlan| format!("VLAN {vlan}"));
    lines.push((
        "management",
        format!(
            "{} {vlan}, gateway {}, infrastructure range {}–{}",
            management.subnet, management.gateway, management.range_start, management.range_end
        ),
    ));
    if !spec.compute_vlans.is_empty() {
        let vlans: Vec<_> = spec.compute_vlans.iter().map(ToString::to_string).collect();
        lines.push(("compute", format!("VLAN {}", vlans.join(", "))));
    }
    lines.extend(spec.intents.iter().map(|intent| ("intent", intent_line(intent))));
    for network in &spec.storage_networks {
        let text =
            format!("{}: {} VLAN {} on {}", network.name, network.subnet, network.vlan, network.adapter);
        lines.push(("storage", text));
    }
    lines.iter().fold(String::new(), |mut out, (title, text)| {
        let _ = writeln!(out, "{title:<11} {text}");
        out
    })
}

fn shape(shape: Shape) -> String {
    let mirror = match shape.mirror() {
        Mirror::TwoWay => "two-way",
        Mirror::FourWay => "four-way",
    };
    format!("{shape}, {mirror} mirror")
}

fn nodes(zone: &Zone) -> String {
    let nodes: Vec<_> =
        zone.nodes.iter().map(|node| format!("{} {}", node.name, node.management_ip)).collect();
    format!("{}: {}", zone.name, nodes.join(", "))
}

fn intent_line(intent: &Intent) -> String {
    let traffic: Vec<_> = intent.traffic.iter().map(|class| class_word(*class)).collect();
    let adapters: Vec<_> = intent.adapters.iter().map(ToString::to_string).collect();
    format!("{}: {} on {}, MTU {}", intent.name, traffic.join("+"), adapters.join(", "), intent.mtu)
}

fn class_word(class: TrafficClass) -> &'static str {
    match class {
        TrafficClass::Management => "management",
        TrafficClass::Compute => "compute",
        TrafficClass::Storage => "storage",
    }
}

/// Longest run of bytes that an excerpt shows: the lines of a place and those around it.
const EXCERPT_BYTES_MAX: usize = 4000;

/// A file, masked, and where its places begin.
struct Masked {
    file: NamedSource<String>,
    base: usize,
}

impl Masked {
    fn new(source: &Source, base: usize) -> Self {
        Self { file: NamedSource::new(plain(source.name()), source.shown()), base }
    }

    fn has(&self, position: usize) -> bool {
        position >= self.base && position - self.base <= self.file.inner().len()
    }

    /// The bytes of a place in this file, if it is one and the lines around it can be shown.
    fn place(&self, at: &Location) -> Option<std::ops::Range<usize>> {
        let span = at.span.as_ref().filter(|span| self.has(span.start))?;
        let text = self.file.inner();
        let start = crate::source::floor_boundary(text, span.start - self.base);
        let end = crate::source::floor_boundary(text, (span.end - self.base).max(start));
        // An excerpt has the line before and the one after, too.
        let lines_before = text[..start].rmatch_indices('\n').nth(1).map_or(0, |(newline, _)| newline);
        let lines_after =
            text[end..].match_indices('\n').nth(1).map_or(text.len(), |(newline, _)| end + newline);
        (!text.is_empty() && lines_after - lines_before <= EXCERPT_BYTES_MAX).then_some(start..end)
    }
}

/// The masked files and the handler that draws excerpts of them.
struct Excerpts<'s> {
    source: &'s Source,
    /// The template last: its places follow.
    files: Vec<Masked>,
    handler: GraphicalReportHandler,
}

impl<'s> Excerpts<'s> {
    fn new(source: &'s Source, colour: bool) -> Self {
        let theme = if colour { GraphicalTheme::unicode() } else { GraphicalTheme::unicode_nocolor() };
        let handler = GraphicalReportHandler::new_themed(theme).with_wrap_lines(false).with_links(false);
        let beside = source.arm_template().map(|(template, base)| Masked::new(template, base));
        Self { source, files: std::iter::once(Masked::new(source, 0)).chain(beside).collect(), handler }
    }

    fn report<'e>(&'e self, mut shown: Shown<'e>) -> String {
        if let Some(span) = shown.at.and_then(|at| at.span.as_ref()) {
            let file = self.files.iter().rev().find(|file| file.has(span.start));
            match file.and_then(|file| shown.at.and_then(|at| file.place(at)).map(|place| (file, place))) {
                Some((file, place)) => shown.excerpt(file, place),
                None if self.source.is_empty() => {}
                None => {
                    let (line, column) = self.source.line_column(span.start);
                    let name = plain(self.source.name_at(span.start));
                    let _ = write!(shown.message, "\nat {name}:{line}:{column}");
                }
            }
        }
        let mut out = String::new();
        match self.handler.render_report(&mut out, &shown) {
            Ok(()) => out,
            // Only writing can fail, and writing to a string can't.
            Err(fmt::Error) => format!("{}\n", shown.message),
        }
    }
}

/// A diagnostic or a problem as the drawing library wants it.
struct Shown<'s> {
    code: Option<String>,
    severity: Severity,
    message: String,
    help: Option<String>,
    at: Option<&'s Location>,
    related: &'s [(Location, String)],
    source: Option<&'s NamedSource<String>>,
    labels: Vec<LabeledSpan>,
}

/// The drawing library asks for it and prints it nowhere.
impl fmt::Debug for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shown").field("code", &self.code).finish_non_exhaustive()
    }
}

impl<'s> Shown<'s> {
    fn diagnostic(diagnostic: &'s Diagnostic) -> Self {
        Self {
            code: Some(diagnostic.rule.to_string()),
            severity: diagnostic.severity,
            message: folded(&diagnostic.message, ""),
            help: Some(folded(&diagnostic.help, "")),
            at: diagnostic.location.as_ref(),
            related: &diagnostic.related,
            source: None,
            labels: Vec::new(),
        }
    }

    fn problem(problem: &'s Problem) -> Self {
        Self {
            code: None,
            severity: Severity::Error,
            message: folded(&problem.message, ""),
            help: problem.help.as_deref().map(|help| folded(help, "")),
            at: problem.location.as_ref(),
            related: &problem.related,
            source: None,
            labels: Vec::new(),
        }
    }

    /// The main place first; related places that the file hasn't are left out.
    fn excerpt(&mut self, file: &'s Masked, place: std::ops::Range<usize>) {
        self.source = Some(&file.file);
        let main = LabeledSpan::new_primary_with_span(Some("here".to_owned()), SourceSpan::from(place));
        let related = self.related.iter().filter_map(|(at, words)| {
            file.place(at)
                .map(|place| LabeledSpan::new_with_span(Some(words.clone()), SourceSpan::from(place)))
        });
        self.labels = std::iter::once(main).chain(related).collect();
    }
}

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Shown<'_> {}

impl miette::Diagnostic for Shown<'_> {
    fn code<'a>(&'a self) -> Option<Box<dyn fmt::Display + 'a>> {
        self.code.as_ref().map(|code| Box::new(code) as _)
    }

    fn severity(&self) -> Option<miette::Severity> {
        Some(match self.severity {
            Severity::Note => miette::Severity::Advice,
            Severity::Warning => miette::Severity::Warning,
            Severity::Error => miette::Severity::Error,
        })
    }

    fn help<'a>(&'a self) -> Option<Box<dyn fmt::Display + 'a>> {
        self.help.as_ref().map(|help| Box::new(help) as _)
    }

    fn source_code(&self) -> Option<&dyn miette::SourceCode> {
        self.source.map(|source| source as &dyn miette::SourceCode)
    }

    fn labels(&self) -> Option<Box<dyn Iterator<Item = LabeledSpan> + '_>> {
        if self.labels.is_empty() { None } else { Some(Box::new(self.labels.iter().cloned())) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paragraphs_fold_at_spaces_outside_quotes() {
        let text = format!("{} `--override {}` end", "word ".repeat(15).trim(), "x".repeat(20));
        assert_eq!(folded(&text, "  "), text.replace(" end", "\n  end"));
        assert_eq!(folded("", "  "), "");
        assert!(folded(&"long-".repeat(60), "").lines().count() == 1);
    }
}
