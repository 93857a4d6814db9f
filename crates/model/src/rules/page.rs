//! The table as text: one rule explained, and the page of all of them.

use super::{Checked, Override, Rule, all};
use std::fmt::Write as _;

/// What `docs/rules.md` starts with.
const HEAD: &str = "\
# Rules

What a deployment is checked against: every rule, by where it is checked. This page is what `twinrack rules --markdown` writes;
the table is `crates/model/src/rules/`, and a test holds the page to it. `twinrack explain ID` shows one rule.

All violations of a file are reported at once, each with its place and what to change. A *note* changes nothing, a *warning* is
allowed, an *error* is refused. A rule that can be overridden by its id is then a warning: `--override ID`, or
`overrides = [\"ID\"]` in a TOML template. In the words of a violation `…` stands for what is named.
";

/// Where a kind of rules is checked, in a sentence.
fn place(checked: Checked) -> &'static str {
    match checked {
        Checked::Template => "In the file alone, by `twinrack validate` and before anything is deployed.",
        Checked::Inventory => {
            "In what the machines say they have, before their networks are made; what a drive holds, when it is claimed."
        }
        Checked::Wires => {
            "In what the switches say of the cables (LLDP), before networks are made and before they are kept."
        }
        Checked::Measurement => "In what was sent and arrived, once the networks are made.",
    }
}

/// How a violation is accepted knowingly.
fn on_override(rule: &Rule) -> String {
    match rule.on_override {
        Override::No => "no".to_owned(),
        Override::ById { costs } => format!("`--override {}`: {costs}", rule.id),
        Override::By { how, costs } => format!("`{how}`: {costs}"),
    }
}

fn severity(rule: &Rule) -> String {
    let milder = rule.milder.map_or_else(String::new, |milder| format!(" ({milder})"));
    format!("{}{milder}", rule.severity)
}

/// One rule, for a terminal.
pub fn explained(rule: &Rule) -> String {
    let mut out = format!("{}: {}\n\n", rule.id, rule.title);
    let mut line = |title: &str, text: &str| {
        let _ = writeln!(out, "{title:<9} {text}");
    };
    line("why", rule.why);
    line("severity", &severity(rule));
    line("checked", &format!("{}. {}", rule.checked, place(rule.checked)));
    for says in rule.says {
        line("says", says);
    }
    line("help", rule.help);
    line("override", &on_override(rule));
    out
}

/// The whole page, in Markdown.
pub fn markdown() -> String {
    let mut out = HEAD.to_owned();
    for checked in Checked::ALL {
        let _ = write!(out, "\n## Checked in: {checked}\n\n{}\n", place(checked));
        for rule in all().filter(|rule| rule.checked == checked) {
            let _ = write!(out, "\n### `{}`\n\n{}.\n\n", rule.id, capital(rule.title));
            let says: Vec<String> = rule.says.iter().map(|says| format!("“{says}”")).collect();
            for (title, text) in [
                ("why", rule.why.to_owned()),
                ("severity", severity(rule)),
                ("says", says.join(", ")),
                ("help", rule.help.to_owned()),
                ("override", on_override(rule)),
            ] {
                let _ = writeln!(out, "- {title}: {text}");
            }
        }
    }
    out
}

fn capital(sentence: &str) -> String {
    let mut characters = sentence.chars();
    characters.next().map_or_else(String::new, |first| first.to_uppercase().chain(characters).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_is_what_the_table_says() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/rules.md");
        let page = std::fs::read_to_string(path).expect("the page");
        assert!(
            page == markdown(),
            "docs/rules.md is not the table's: `twinrack rules --markdown > docs/rules.md`"
        );
    }

    #[test]
    fn one_rule_is_explained_with_everything_it_has() {
        for rule in all() {
            let text = explained(rule);
            for words in [rule.id.0, rule.title, rule.why, rule.help].iter().chain(rule.says) {
                assert!(text.contains(words), "{}: {words}", rule.id);
            }
        }
        assert!(
            explained(crate::rules::DRIVE_FOREIGN_DATA)
                .contains("`twinrack drive add --wipe`: what the drive holds is lost")
        );
    }
}
