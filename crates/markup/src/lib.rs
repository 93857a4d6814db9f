//! HTML and SVG as a tree, so that whatever a switch or a node calls itself stays text.
//!
//! Purpose: pages that twinrack writes (a run's, a cluster's) are one file each, without script or outside reference: [`document`] of an [`Element`]. Pure.
//!
//! Invariants: text and attribute values are escaped when they are written, always; control characters are shown as
//! their pictures, and characters that turn the reading direction are replaced, so that a name can't rearrange its line.

use std::fmt::{self, Display, Write};

/// An element and what is in it.
#[derive(Debug, Clone)]
pub struct Element {
    name: &'static str,
    attributes: Vec<(&'static str, String)>,
    content: Vec<Content>,
}

#[derive(Debug, Clone)]
enum Content {
    Element(Element),
    Text(String),
}

/// Elements that begin on a line of their own: nothing is set differently by that, and people can read the source.
const ON_A_LINE: [&str; 17] = [
    "header", "main", "section", "h1", "h2", "h3", "p", "div", "table", "tr", "ul", "ol", "li", "details",
    "svg", "g", "rect",
];

/// An empty element.
pub fn el(name: &'static str) -> Element {
    Element { name, attributes: Vec::new(), content: Vec::new() }
}

/// An element of a class.
pub fn classed(name: &'static str, class: impl Display) -> Element {
    el(name).with("class", class)
}

impl Element {
    /// With an attribute more.
    #[must_use]
    pub fn with(mut self, attribute: &'static str, value: impl Display) -> Self {
        self.attributes.push((attribute, value.to_string()));
        self
    }

    /// With text behind what is in it.
    #[must_use]
    pub fn text(mut self, text: impl Display) -> Self {
        self.content.push(Content::Text(text.to_string()));
        self
    }

    /// With an element behind what is in it.
    #[must_use]
    pub fn child(mut self, element: Element) -> Self {
        self.content.push(Content::Element(element));
        self
    }

    /// With several.
    #[must_use]
    pub fn all(mut self, elements: impl IntoIterator<Item = Element>) -> Self {
        self.content.extend(elements.into_iter().map(Content::Element));
        self
    }
}

impl Display for Element {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if ON_A_LINE.contains(&self.name) {
            f.write_char('\n')?;
        }
        write!(f, "<{}", self.name)?;
        for (name, value) in &self.attributes {
            write!(f, " {name}=\"")?;
            escape(f, value)?;
            f.write_char('"')?;
        }
        f.write_char('>')?;
        for content in &self.content {
            match content {
                Content::Element(element) => write!(f, "{element}")?,
                Content::Text(text) => escape(f, text)?,
            }
        }
        write!(f, "</{}>", self.name)
    }
}

/// A whole page: its title, its style sheet, what is in its body.
pub fn document(title: &str, style: &str, body: &Element) -> String {
    let mut escaped = String::new();
    // A string takes whatever is written to it.
    escape(&mut escaped, title).ok();
    format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <meta name=\"color-scheme\" content=\"light dark\">\n\
         <link rel=\"icon\" href=\"data:,\">\n\
         <title>{escaped}</title>\n<style>\n{style}</style>\n</head>\n<body>{body}\n</body>\n</html>\n"
    )
}

/// Writes text so that it is text, inside an element and inside quotes.
pub fn escape(f: &mut impl Write, text: &str) -> fmt::Result {
    for character in text.chars() {
        match character {
            '&' => f.write_str("&amp;")?,
            '<' => f.write_str("&lt;")?,
            '>' => f.write_str("&gt;")?,
            '"' => f.write_str("&quot;")?,
            '\'' => f.write_str("&#39;")?,
            '\n' | '\t' => f.write_char(character)?,
            // The pictures of the control characters are in their order, from U+2400 on.
            '\0'..='\u{1f}' => {
                f.write_char(char::from_u32(0x2400 + u32::from(character)).unwrap_or('\u{fffd}'))?;
            }
            '\u{7f}' => f.write_char('\u{2421}')?,
            '\u{80}'..='\u{9f}'
            | '\u{200e}'
            | '\u{200f}'
            | '\u{202a}'..='\u{202e}'
            | '\u{2066}'..='\u{2069}' => f.write_char('\u{fffd}')?,
            _ => f.write_char(character)?,
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn hostile_text_stays_text() {
        let hostile = "<script>alert(\"x\" + 'y')</script>&amp;\u{0}\u{1b}[31m\u{7f}\u{85}\u{202e}";
        let element = el("p").with("title", hostile).text(hostile);
        let escaped = "&lt;script&gt;alert(&quot;x&quot; + &#39;y&#39;)&lt;/script&gt;&amp;amp;\u{2400}\u{241b}[31m\
                       \u{2421}\u{fffd}\u{fffd}";
        assert_eq!(element.to_string(), format!("\n<p title=\"{escaped}\">{escaped}</p>"));
    }

    proptest! {
        #[test]
        fn no_text_leaves_its_place(text: String) {
            let mut written = String::new();
            escape(&mut written, &text).unwrap();
            prop_assert!(!written.contains(['<', '>', '"', '\'']));
            prop_assert!(written.chars().all(|c| !c.is_control() || c == '\n' || c == '\t'));
        }
    }
}
