// SPDX-License-Identifier: Apache-2.0
//! Draws timelines as SVG.
//!
//! One recording becomes a waterfall: a row per activity, its bar at its place in time. Several become a
//! comparison: one stacked bar each on a common scale, and a table of the same activities side by side. All
//! text comes from files and is escaped; colours never carry meaning alone.

use std::collections::BTreeMap;
use std::fmt::Write;

use crate::activity::{Activity, activities, milliseconds};
use crate::phase::Phase;
use crate::record::Recording;

const WIDTH: f64 = 960.0;
const MARGIN: f64 = 24.0;
/// Width of the names left of the bars.
const NAMES: f64 = 190.0;
/// Width of the numbers right of the longest bar.
const NUMBERS: f64 = 90.0;
const ROW: f64 = 28.0;
const BAR: f64 = 16.0;
const HEADER: f64 = 76.0;
/// Exit kinds that are named.
const TOP_EXITS: usize = 6;
/// Characters of a name that fit into its column.
const NAME_CHARS: usize = 28;
/// Distinct in hue and lightness, readable on white; the activity of a phase keeps its colour in every
/// picture.
const COLOURS: [&str; 13] = [
    "#6b7280", "#94a3b8", "#0f766e", "#14b8a6", "#65a30d", "#ca8a04", "#db2777", "#b45309", "#dc2626",
    "#2563eb", "#111827", "#7c3aed", "#475569",
];

fn colour(phase: Option<Phase>) -> &'static str {
    COLOURS[phase.map_or(0, |phase| phase as usize)]
}

/// Draws the recordings, which [`Recording::read`] has checked; `label` names each in a comparison.
#[must_use]
pub fn draw(recordings: &[(String, Recording)]) -> String {
    let rows: Vec<_> =
        recordings.iter().map(|(label, recording)| (label, recording, activities(recording))).collect();
    let longest = rows.iter().filter_map(|(_, _, row)| row.last()).map(|last| last.end).max().unwrap_or(0);
    let mut canvas = Canvas { body: String::new(), y: 0.0, longest: longest.max(1) };
    match rows.as_slice() {
        [(_, recording, row)] => canvas.waterfall(recording, row),
        _ => canvas.comparison(&rows),
    }
    canvas.finish()
}

/// Identifies a drawing made by this module.
const MARK: &str = "<!-- cvmm timeline -->";

/// Whether this is a drawing made by [`draw`].
#[must_use]
pub fn is_drawing(content: &[u8]) -> bool {
    content.starts_with(b"<svg ")
        && content.windows(MARK.len()).take(1024).any(|part| part == MARK.as_bytes())
}

struct Canvas {
    body: String,
    /// Where the next row starts.
    y: f64,
    /// The time at the right end of the scale, in nanoseconds.
    longest: u64,
}

impl Canvas {
    fn waterfall(&mut self, recording: &Recording, row: &[Activity]) {
        self.title(
            &recording.vm,
            &format!(
                "{} from process start to the last mark{}",
                milliseconds(self.longest),
                recording.end().map_or(String::new(), |end| format!("; {end}"))
            ),
        );
        self.grid(row.len());
        for activity in row {
            let (x, width) = (self.x(activity.start), self.bar_width(activity));
            self.text(MARGIN + NAMES - 10.0, "end", "name", &shorten(&activity.name));
            self.bar(x, width, activity);
            self.text(x + width + 6.0, "start", "number", &milliseconds(activity.length()));
            self.y += ROW;
        }
        self.exits(recording);
    }

    fn comparison(&mut self, rows: &[(&String, &Recording, Vec<Activity>)]) {
        self.title("Timeline", &format!("{} recordings on one scale", rows.len()));
        self.grid(rows.len());
        for (label, _, row) in rows {
            self.text(MARGIN + NAMES - 10.0, "end", "name", &shorten(label));
            for activity in row {
                self.bar(self.x(activity.start), self.bar_width(activity), activity);
            }
            let end = row.last().map_or(0, |last| last.end);
            self.text(self.x(end) + 6.0, "start", "number", &milliseconds(end));
            self.y += ROW;
        }
        self.table(rows);
    }

    /// The same numbers as text: a narrow bar cannot be labelled.
    fn table(&mut self, rows: &[(&String, &Recording, Vec<Activity>)]) {
        let mut names: Vec<(&str, Option<Phase>)> = Vec::new();
        for activity in rows.iter().flat_map(|(_, _, row)| row) {
            if !names.iter().any(|(name, _)| *name == activity.name) {
                names.push((&activity.name, activity.phase));
            }
        }
        names.sort_by_key(|(_, phase)| *phase);
        self.y += 40.0;
        let column = ((WIDTH - 2.0 * MARGIN - NAMES) / rows.len().max(1) as f64).min(150.0);
        let right = |index: usize| MARGIN + NAMES + column * (index + 1) as f64;
        let fits = (column / 7.0) as usize;
        for (index, (label, _, _)) in rows.iter().enumerate() {
            self.text(right(index), "end", "head", &shorten_to(label, fits));
        }
        self.y += ROW * 0.8;
        for (name, phase) in names {
            let colour = colour(phase);
            let _ = write!(
                self.body,
                r#"<rect x="{MARGIN}" y="{:.1}" width="12" height="12" fill="{colour}"/>"#,
                self.y + 2.0
            );
            self.text(MARGIN + 20.0, "start", "name", &shorten(name));
            for (index, (_, _, row)) in rows.iter().enumerate() {
                let found = row.iter().find(|activity| activity.name == name);
                let number = found.map_or_else(|| "–".to_owned(), |activity| milliseconds(activity.length()));
                self.text(right(index), "end", "number", &number);
            }
            self.y += ROW * 0.8;
        }
    }

    fn exits(&mut self, recording: &Recording) {
        let Some(exits) = &recording.exits else { return };
        let total = exits.values().fold(0_u64, |sum, count| sum.saturating_add(*count));
        self.y += 40.0;
        self.text(MARGIN, "start", "head", &format!("{total} exits"));
        for (kind, count) in top_exits(exits) {
            self.y += ROW * 0.8;
            self.text(MARGIN + NAMES - 10.0, "end", "name", &shorten(kind));
            self.text(MARGIN + NAMES, "start", "number", &count.to_string());
        }
        self.y += ROW * 0.8;
    }

    fn title(&mut self, title: &str, subtitle: &str) {
        self.y = MARGIN;
        self.text(MARGIN, "start", "title", &shorten_to(title, 64));
        self.y += 22.0;
        self.text(MARGIN, "start", "number", subtitle);
        self.y = MARGIN + HEADER;
    }

    /// Vertical lines at round times behind `rows` rows, with their numbers above.
    fn grid(&mut self, rows: usize) {
        let step = round_step(self.longest);
        let (top, bottom) = (self.y - 6.0, self.y + ROW * rows as f64);
        let mut next = Some(0_u64);
        while let Some(time) = next.filter(|time| *time <= self.longest) {
            let x = self.x(time);
            let _ = write!(
                self.body,
                r#"<line class="grid" x1="{x:.1}" y1="{top:.1}" x2="{x:.1}" y2="{bottom:.1}"/><text class="axis" x="{x:.1}" y="{:.1}" text-anchor="middle">{}</text>"#,
                top - 5.0,
                escape(&milliseconds(time))
            );
            next = time.checked_add(step);
        }
    }

    fn bar(&mut self, x: f64, width: f64, activity: &Activity) {
        let _ = write!(
            self.body,
            r#"<rect x="{x:.1}" y="{:.1}" width="{width:.1}" height="{BAR}" fill="{}"><title>{}: {}</title></rect>"#,
            self.y,
            colour(activity.phase),
            escape(&activity.name),
            milliseconds(activity.length())
        );
    }

    /// Text on the line of the current row.
    fn text(&mut self, x: f64, anchor: &str, class: &str, text: &str) {
        let _ = write!(
            self.body,
            r#"<text class="{class}" x="{x:.1}" y="{:.1}" text-anchor="{anchor}">{}</text>"#,
            self.y + BAR - 3.5,
            escape(text)
        );
    }

    fn x(&self, ns: u64) -> f64 {
        MARGIN + NAMES + self.width(ns)
    }

    /// Never less than a visible line.
    fn bar_width(&self, activity: &Activity) -> f64 {
        self.width(activity.length()).max(1.0)
    }

    fn width(&self, ns: u64) -> f64 {
        ns as f64 / self.longest as f64 * (WIDTH - 2.0 * MARGIN - NAMES - NUMBERS)
    }

    fn finish(self) -> String {
        let height = self.y + MARGIN;
        format!(
            r##"<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height:.0}" viewBox="0 0 {WIDTH} {height:.0}" font-family="system-ui, 'DejaVu Sans', sans-serif" font-size="13">
{MARK}
<style>.title{{font-size:18px;font-weight:600;fill:#111827}}.head{{font-weight:600;fill:#111827}}.name{{fill:#111827}}.number{{fill:#4b5563}}.axis{{font-size:11px;fill:#6b7280}}.grid{{stroke:#e5e7eb;stroke-width:1}}</style>
<rect width="100%" height="100%" fill="#ffffff"/>
{}
</svg>
"##,
            self.body
        )
    }
}

/// The most frequent kinds of exit, in descending order.
fn top_exits(exits: &BTreeMap<String, u64>) -> Vec<(&String, u64)> {
    let mut kinds: Vec<_> = exits.iter().map(|(kind, count)| (kind, *count)).collect();
    kinds.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
    kinds.truncate(TOP_EXITS);
    kinds
}

/// The least 1, 2 or 5 times a power of ten that divides the scale into at most eight parts.
fn round_step(longest: u64) -> u64 {
    let mut unit = 1_u64;
    loop {
        for step in [unit, unit * 2, unit * 5] {
            if longest / step < 8 {
                return step;
            }
        }
        unit *= 10;
    }
}

fn shorten(text: &str) -> String {
    shorten_to(text, NAME_CHARS)
}

fn shorten_to(text: &str, max: usize) -> String {
    if text.chars().count() <= max {
        return text.to_owned();
    }
    let kept: String = text.chars().take(max.saturating_sub(1)).collect();
    kept + "…"
}

/// `text` as XML character data; control characters, which XML 1.0 does not allow, become spaces.
fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&apos;"),
            '\u{fffe}' | '\u{ffff}' => escaped.push(' '),
            other if other.is_control() => escaped.push(' '),
            other => escaped.push(other),
        }
    }
    escaped
}
