//! How the cost of a clone grows with the repository: a series of generated ones, and a plot of it.

use std::fmt::Write as _;
use std::path::Path;

use regress::history;
use regress::site::Site;

use crate::fetch;
use crate::measure::{Cost, git, head, median, row};

/// Commits of the smallest repository, and how often that is doubled.
const SMALLEST: u64 = 100;
const DOUBLED: u32 = 6;

/// One curve: its name, its colour, and seconds by number of objects.
struct Curve {
    name: &'static str,
    colour: &'static str,
    points: Vec<(f64, f64)>,
}

/// Measures clones of repositories of doubling size, without and with bitmaps. Returns the plot and
/// rows of JSON.
pub fn plot(pairs: usize) -> (String, Vec<String>) {
    let site = Site::new();
    let mut rows = Vec::new();
    let mut curves = [("gotd", "#c00"), ("git", "#06c"), ("gotd, bitmaps", "#e88"), ("git, bitmaps", "#8bf")]
        .map(|(name, colour)| Curve { name, colour, points: Vec::new() });
    head("generated repositories", pairs);
    for commits in (0..=DOUBLED).map(|times| SMALLEST << times) {
        let repository = history::repository(&site, &format!("{commits}.git"), commits, "sha1");
        for (at, bitmaps) in [(0, false), (2, true)] {
            // A bare repository gets bitmaps unless that is said.
            let writes = format!("repack.writeBitmaps={bitmaps}");
            site.git_in(&repository, ["-c", writes.as_str(), "repack", "-adq"]);
            site.hand_over();
            let objects = objects(&repository);
            let name = format!("{commits} commits{}", if bitmaps { ", bitmaps" } else { "" });
            fetch::measure_pairs(&repository, &repository, pairs, &["clone".into()], &mut |(
                workload,
                a,
                b,
            )| {
                if workload != "clone" {
                    return;
                }
                rows.push(row(
                    &name,
                    &format!("clone {commits}{}", if bitmaps { " bm" } else { "" }),
                    &a,
                    &b,
                ));
                for (curve, costs) in [(at, &a), (at + 1, &b)] {
                    let cpu = median(costs.iter().map(|cost: &Cost| cost.cpu).collect());
                    curves[curve].points.push((objects, cpu));
                }
            });
        }
    }
    (svg(&curves), rows)
}

fn objects(repository: &Path) -> f64 {
    let lines = git(repository, &["count-objects", "-v"]);
    let packed = lines.iter().find_map(|line| line.strip_prefix("in-pack: ")?.parse().ok());
    packed.unwrap_or(1.0)
}

const WIDTH: f64 = 720.0;
const HEIGHT: f64 = 460.0;
const MARGIN: f64 = 60.0;

/// Both axes are logarithmic: what grows in proportion is a line of slope one.
fn svg(curves: &[Curve]) -> String {
    // A cost below the clock's tick is drawn at it.
    let least = 0.001_f64;
    let all = || curves.iter().flat_map(|curve| &curve.points);
    let span = |values: &mut dyn Iterator<Item = f64>| {
        let (low, high) = values.fold((f64::MAX, f64::MIN), |(low, high), v| (low.min(v), high.max(v)));
        (low.log10().floor(), high.log10().ceil())
    };
    let (left, right) = span(&mut all().map(|point| point.0.max(1.0)));
    let (bottom, top) = span(&mut all().map(|point| point.1.max(least)));
    let x = |value: f64| {
        MARGIN + (value.max(1.0).log10() - left) / (right - left).max(1.0) * (WIDTH - 2.0 * MARGIN)
    };
    let y = |value: f64| {
        HEIGHT
            - MARGIN
            - (value.max(least).log10() - bottom) / (top - bottom).max(1.0) * (HEIGHT - 2.0 * MARGIN)
    };
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" font-family=\"sans-serif\" \
         font-size=\"12\">\n<rect width=\"{WIDTH}\" height=\"{HEIGHT}\" fill=\"white\"/>\n"
    );
    let mut line = |x1: f64, y1: f64, x2: f64, y2: f64| {
        let _ = writeln!(
            out,
            "<line x1=\"{x1:.1}\" y1=\"{y1:.1}\" x2=\"{x2:.1}\" y2=\"{y2:.1}\" stroke=\"#ddd\"/>"
        );
    };
    let (columns, lines) = (left as i32..=right as i32, bottom as i32..=top as i32);
    for power in columns.clone() {
        let at = x(10_f64.powi(power));
        line(at, MARGIN, at, HEIGHT - MARGIN);
    }
    for power in lines.clone() {
        let at = y(10_f64.powi(power));
        line(MARGIN, at, WIDTH - MARGIN, at);
    }
    let mut text = |x: f64, y: f64, anchor: &str, colour: &str, text: &str| {
        let _ = writeln!(
            out,
            "<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\" fill=\"{colour}\">{text}</text>"
        );
    };
    for power in columns {
        text(
            x(10_f64.powi(power)),
            HEIGHT - MARGIN + 18.0,
            "middle",
            "black",
            &10_f64.powi(power).to_string(),
        );
    }
    for power in lines {
        text(MARGIN - 6.0, y(10_f64.powi(power)) + 4.0, "end", "black", &10_f64.powi(power).to_string());
    }
    text(WIDTH / 2.0, HEIGHT - 16.0, "middle", "black", "objects in the repository");
    text(MARGIN, MARGIN - 30.0, "start", "black", "seconds of processor time for a clone");
    for (at, curve) in curves.iter().enumerate() {
        text(MARGIN + 12.0, MARGIN + 16.0 * (at as f64 + 1.0), "start", curve.colour, curve.name);
    }
    for curve in curves {
        let mut points = String::new();
        for (objects, seconds) in &curve.points {
            let _ = write!(points, "{:.1},{:.1} ", x(*objects), y(*seconds));
            let _ = writeln!(
                out,
                "<circle cx=\"{:.1}\" cy=\"{:.1}\" r=\"3\" fill=\"{}\"/>",
                x(*objects),
                y(*seconds),
                curve.colour
            );
        }
        let _ = writeln!(
            out,
            "<polyline points=\"{}\" fill=\"none\" stroke=\"{}\" stroke-width=\"1.5\"/>",
            points.trim_end(),
            curve.colour
        );
    }
    out + "</svg>\n"
}
