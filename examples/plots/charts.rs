//! Grouped bar charts with whiskers from the least to the most, as SVG.

use std::error::Error;
use std::path::Path;

use plotters::coord::Shift;
use plotters::coord::ranged1d::{AsRangedCoord, Ranged, ValueFormatter};
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

/// A chart; those of one family stand side by side.
#[derive(Clone, Debug, Default)]
pub(crate) struct Panel {
    pub(crate) title: String,
    pub(crate) y_label: String,
    /// Names below the axis.
    pub(crate) groups: Vec<String>,
    /// Names in the legend, the same in every panel of a family.
    pub(crate) series: Vec<String>,
    /// Bars by group and series.
    pub(crate) bars: Vec<Vec<Option<Bar>>>,
    pub(crate) scale: Scale,
    /// A line across the chart, and its name.
    pub(crate) target: Option<(f64, String)>,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Bar {
    pub(crate) median: f64,
    pub(crate) min: f64,
    pub(crate) max: f64,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Scale {
    #[default]
    Linear,
    Log,
}

const PANEL_WIDTH: u32 = 460;
const HEIGHT: u32 = 420;
const TITLE_HEIGHT: u32 = 40;
const LEGEND_LINE: u32 = 20;
const LEGEND_COLUMNS: usize = 3;
const FONT: &str = "sans-serif";
const COLOURS: [RGBColor; 10] = [
    RGBColor(31, 119, 180),
    RGBColor(255, 127, 14),
    RGBColor(44, 160, 44),
    RGBColor(148, 103, 189),
    RGBColor(140, 86, 75),
    RGBColor(227, 119, 194),
    RGBColor(127, 127, 127),
    RGBColor(188, 189, 34),
    RGBColor(23, 190, 207),
    RGBColor(214, 39, 40),
];

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;
type Outcome = Result<(), Box<dyn Error>>;

/// Draws the panels into one file.
pub(crate) fn draw(path: &Path, title: &str, panels: &[Panel]) -> Outcome {
    let Some(first) = panels.first() else { return Ok(()) };
    if let Some(parent) = path.parent() {
        std::fs::create_dir_all(parent)?;
    }
    let legend_lines = first.series.len().div_ceil(LEGEND_COLUMNS) as u32;
    let legend_height = if first.series.len() > 1 { legend_lines * LEGEND_LINE + 10 } else { 0 };
    let (width, height) = (PANEL_WIDTH * panels.len() as u32, TITLE_HEIGHT + HEIGHT + legend_height);
    let root = SVGBackend::new(path, (width, height)).into_drawing_area();
    root.fill(&WHITE)?;
    root.draw(&Text::new(title.to_owned(), (12, 12), (FONT, 20).into_font()))?;
    let (_, below_title) = root.split_vertically(TITLE_HEIGHT);
    let (charts, legend) = below_title.split_vertically(HEIGHT);
    for (panel, area) in panels.iter().zip(charts.split_evenly((1, panels.len()))) {
        match panel.scale {
            Scale::Linear => chart(&area, panel, linear_range(panel))?,
            Scale::Log => chart(&area, panel, log_range(panel).log_scale())?,
        }
    }
    if legend_height > 0 {
        draw_legend(&legend, &first.series, width)?;
    }
    root.present()?;
    Ok(())
}

fn values(panel: &Panel) -> impl Iterator<Item = f64> {
    let bars = panel.bars.iter().flatten().flatten();
    bars.flat_map(|bar| [bar.min, bar.median, bar.max]).chain(panel.target.iter().map(|(target, _)| *target))
}

fn linear_range(panel: &Panel) -> std::ops::Range<f64> {
    let most = values(panel).fold(0.0, f64::max);
    0.0..if most > 0.0 { most * 1.08 } else { 1.0 }
}

/// Whole powers of ten around all positive values.
fn log_range(panel: &Panel) -> std::ops::Range<f64> {
    let positive = || values(panel).filter(|value| *value > 0.0);
    let (least, most) = (positive().fold(f64::INFINITY, f64::min), positive().fold(0.0, f64::max));
    if most == 0.0 {
        return 0.1..10.0;
    }
    10f64.powf(least.log10().floor())..10f64.powf((most * 1.05).log10().ceil())
}

fn chart<Y>(area: &Area<'_>, panel: &Panel, y_range: Y) -> Outcome
where
    Y: AsRangedCoord<Value = f64>,
    Y::CoordDescType: Ranged<ValueType = f64> + ValueFormatter<f64>,
{
    let groups = panel.groups.len();
    let mut chart = ChartBuilder::on(area)
        .caption(&panel.title, (FONT, 15))
        .margin(8)
        .x_label_area_size(34)
        .y_label_area_size(70)
        .build_cartesian_2d(0.0..groups as f64, y_range)?;
    let name = |x: &f64| panel.groups.get(*x as usize).cloned().unwrap_or_default();
    chart
        .configure_mesh()
        .disable_x_mesh()
        .disable_x_axis()
        .light_line_style(WHITE)
        .y_desc(&panel.y_label)
        .y_label_formatter(&|value| short(*value))
        .label_style((FONT, 12))
        .draw()?;
    let floor = chart.y_range().start;
    let slot = 0.86 / panel.series.len().max(1) as f64;
    for (at, bars) in panel.bars.iter().enumerate() {
        for (series, bar) in bars.iter().enumerate() {
            let Some(bar) = bar else { continue };
            let colour = COLOURS[series % COLOURS.len()];
            let left = at as f64 + 0.07 + slot * series as f64;
            let (right, middle) = (left + slot * 0.9, left + slot * 0.45);
            let shape = Rectangle::new([(left, floor), (right, bar.median.max(floor))], colour.filled());
            chart.draw_series(std::iter::once(shape))?;
            let whisker = vec![(middle, bar.min.max(floor)), (middle, bar.max.max(floor))];
            chart.draw_series(std::iter::once(PathElement::new(whisker, BLACK)))?;
        }
    }
    if let Some((target, label)) = &panel.target {
        let line = vec![(0.0, *target), (groups as f64, *target)];
        chart.draw_series(std::iter::once(PathElement::new(line, RED.stroke_width(2))))?;
        let style = (FONT, 12).into_font().color(&RED).pos(Pos::new(HPos::Right, VPos::Bottom));
        let label = Text::new(label.clone(), (groups as f64, *target), style);
        chart.draw_series(std::iter::once(label))?;
    }
    // Names of groups, centred below each.
    let (area_width, area_height) = area.dim_in_pixel();
    let plot = f64::from(area_width) - 70.0 - 16.0;
    let style = (FONT, 12).into_font().color(&BLACK).pos(Pos::new(HPos::Center, VPos::Top));
    for at in 0..groups {
        let x = 78.0 + plot * (at as f64 + 0.5) / groups as f64;
        for (line, part) in name(&(at as f64)).split('\n').enumerate() {
            let position = (x as i32, area_height as i32 - 36 + 14 * line as i32);
            area.draw(&Text::new(part.to_owned(), position, style.clone()))?;
        }
    }
    Ok(())
}

fn draw_legend(area: &Area<'_>, series: &[String], width: u32) -> Outcome {
    let column = width as i32 / LEGEND_COLUMNS as i32;
    for (at, name) in series.iter().enumerate() {
        let (x, y) = (
            20 + column * (at % LEGEND_COLUMNS) as i32,
            6 + LEGEND_LINE as i32 * (at / LEGEND_COLUMNS) as i32,
        );
        let colour = COLOURS[at % COLOURS.len()];
        area.draw(&Rectangle::new([(x, y), (x + 12, y + 12)], colour.filled()))?;
        area.draw(&Text::new(name.clone(), (x + 18, y), (FONT, 13).into_font()))?;
    }
    Ok(())
}

/// A number with a suffix for thousands, millions and so on.
fn short(value: f64) -> String {
    let magnitude = value.abs();
    let (scaled, suffix) = match magnitude {
        _ if magnitude >= 1e9 => (value / 1e9, "G"),
        _ if magnitude >= 1e6 => (value / 1e6, "M"),
        _ if magnitude >= 1e3 => (value / 1e3, "k"),
        _ => (value, ""),
    };
    let text = format!("{scaled:.3}");
    let text = if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.') } else { &text };
    format!("{text}{suffix}")
}
