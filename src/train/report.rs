//! Pictures of a training: curves, and galleries of small images. All are SVG files that need no font on the machine that writes them.

use std::io::{Cursor, Write};
use std::ops::Range;
use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use image::imageops::{FilterType, resize};
use image::{DynamicImage, GrayImage, ImageFormat};
use plotters::element::DashedPathElement;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use crate::error::Error;
use crate::formats::write_whole;

/// How the points of a series are drawn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Style {
    /// Joined by a line.
    Line,
    /// Joined by dashes.
    Dashed,
    /// A dot for each.
    Dots,
}

impl Style {
    /// What stands before a name in a legend, from that pixel to the right.
    fn mark<'b>(self, (x, y): (i32, i32), colour: RGBAColor) -> DynElement<'static, SVGBackend<'b>, (i32, i32)> {
        let (ends, thick) = ([(x, y), (x + 18, y)], colour.stroke_width(2));
        match self {
            Style::Line => PathElement::new(ends, thick).into_dyn(),
            Style::Dashed => DashedPathElement::new(ends, DASH, SPACE, thick).into_dyn(),
            Style::Dots => Circle::new((x + 9, y), 3, colour.filled()).into_dyn(),
        }
    }
}

/// Points of a chart that belong together.
#[derive(Clone, Debug)]
pub struct Series {
    /// Their name in the legend.
    pub name: String,
    /// The points, left to right if they are joined; those that are no numbers are left out.
    pub points: Vec<(f64, f64)>,
    /// How they are drawn.
    pub style: Style,
}

impl Series {
    /// A line.
    pub fn line(name: impl Into<String>, points: Vec<(f64, f64)>) -> Series {
        let (name, style) = (name.into(), Style::Line);
        Series { name, points, style }
    }

    /// A line through values at 1, 2, 3 and so on.
    pub fn counted(name: impl Into<String>, values: impl IntoIterator<Item = f64>) -> Series {
        let points = values.into_iter().enumerate();
        Series::line(name, points.map(|(at, value)| ((at + 1) as f64, value)).collect())
    }

    /// A dashed line.
    pub fn dashed(name: impl Into<String>, points: Vec<(f64, f64)>) -> Series {
        let style = Style::Dashed;
        Series {
            style,
            ..Series::line(name, points)
        }
    }

    /// Dots.
    pub fn dots(name: impl Into<String>, points: Vec<(f64, f64)>) -> Series {
        let style = Style::Dots;
        Series {
            style,
            ..Series::line(name, points)
        }
    }
}

/// A function of two variables behind a chart: where it is near 1 the ground is tinted as the second series is, where it is near 0 as the
/// first.
#[derive(Clone, Debug)]
pub struct Ground {
    /// From where to where along x.
    pub across: (f64, f64),
    /// From where to where along y.
    pub up: (f64, f64),
    /// Fields along each axis.
    pub side: usize,
    /// The values in the middles of the fields, from the lowest row up, each from left to right.
    pub values: Vec<f64>,
}

impl Ground {
    /// The points whose values are wanted, in their order.
    pub fn points(across: (f64, f64), up: (f64, f64), side: usize) -> Vec<(f64, f64)> {
        let middle = |(low, high): (f64, f64), at: usize| low + (high - low) * (at as f64 + 0.5) / side as f64;
        (0..side * side)
            .map(|at| (middle(across, at % side), middle(up, at / side)))
            .collect()
    }
}

/// Series over common axes.
#[derive(Clone, Debug, Default)]
pub struct Chart {
    /// What stands above it.
    pub title: String,
    /// What is counted across.
    pub x_axis: String,
    /// What is measured upwards.
    pub y_axis: String,
    /// Whether upwards each step is a power of ten; then values that are not positive are left out.
    pub log: bool,
    /// What is drawn, in this order.
    pub series: Vec<Series>,
    /// What lies behind.
    pub ground: Option<Ground>,
}

impl Chart {
    /// Lines over linear axes.
    pub fn new(title: impl Into<String>, x_axis: &str, y_axis: &str, series: Vec<Series>) -> Chart {
        Chart {
            title: title.into(),
            x_axis: x_axis.to_owned(),
            y_axis: y_axis.to_owned(),
            series,
            ..Chart::default()
        }
    }

    /// The same over powers of ten.
    #[must_use]
    pub fn logarithmic(self) -> Chart {
        Chart { log: true, ..self }
    }

    /// The same before a ground.
    #[must_use]
    pub fn over(self, ground: Ground) -> Chart {
        let ground = Some(ground);
        Chart { ground, ..self }
    }

    /// The points of a series as they lie on the paper.
    fn shown<'a>(&'a self, series: &'a Series) -> impl Iterator<Item = (f64, f64)> + Clone + 'a {
        let place = |&(x, y): &(f64, f64)| (x, if self.log { y.log10() } else { y });
        series
            .points
            .iter()
            .map(place)
            .filter(|(x, y)| x.is_finite() && y.is_finite())
    }

    /// Whether the series are so many clouds of dots that a legend would hide some and hardly help with the rest.
    fn is_crowded(&self) -> bool {
        self.series.len() > 4 && self.series.iter().all(|series| series.style == Style::Dots)
    }

    /// The names of the series, each in the middle of its points.
    fn names(&self) -> Vec<((f64, f64), usize)> {
        let middle = |mut values: Vec<f64>| {
            values.sort_by(f64::total_cmp);
            values.get(values.len() / 2).copied()
        };
        let place = |(number, series): (usize, &Series)| {
            let (across, up) = self.shown(series).unzip();
            Some(((middle(across)?, middle(up)?), number))
        };
        self.series.iter().enumerate().filter_map(place).collect()
    }

    /// A corner of a plot of that height in pixels where the legend hides nothing, if there is one.
    fn empty_corner(&self, across: &Range<f64>, up: &Range<f64>, height: u32) -> Option<SeriesLabelPosition> {
        let size = (
            0.4,
            f64::from(self.series.len() as u32 * LEGEND_LINE + LEGEND_LINE) / f64::from(height.max(1)),
        );
        let share = |range: &Range<f64>, at: f64| (at - range.start) / (range.end - range.start);
        let near = |share: f64, end: bool, size: f64| if end { share > 1.0 - size } else { share < size };
        let hides = |right: bool, upper: bool| {
            let is_hidden =
                |(x, y): (f64, f64)| near(share(across, x), right, size.0) && near(share(up, y), upper, size.1);
            self.series.iter().any(|series| self.covered(series).any(is_hidden))
        };
        let corners = [
            (true, true, SeriesLabelPosition::UpperRight),
            (true, false, SeriesLabelPosition::LowerRight),
            (false, true, SeriesLabelPosition::UpperLeft),
            (false, false, SeriesLabelPosition::LowerLeft),
        ];
        let empty = corners.into_iter().find(|&(right, upper, _)| !hides(right, upper));
        empty.map(|(_, _, corner)| corner)
    }

    /// The points of a series and, where they are joined, points of the lines between them.
    fn covered<'a>(&'a self, series: &'a Series) -> impl Iterator<Item = (f64, f64)> + 'a {
        const BETWEEN: usize = 16;
        let steps = if series.style == Style::Dots { 1 } else { BETWEEN };
        let next = self.shown(series).skip(1).map(Some).chain([None]);
        self.shown(series).zip(next).flat_map(move |(from, to)| {
            let to = to.unwrap_or(from);
            (0..steps).map(move |step| {
                let share = step as f64 / steps as f64;
                (from.0 + share * (to.0 - from.0), from.1 + share * (to.1 - from.1))
            })
        })
    }

    fn draw(&self, area: &Area<'_>) -> Result<(), Failure> {
        let points: Vec<(f64, f64)> = self.series.iter().flat_map(|series| self.shown(series)).collect();
        let bounds = |ground: Option<(f64, f64)>, values: &dyn Fn(&(f64, f64)) -> f64| {
            let (low, high) = ground.unwrap_or((f64::INFINITY, f64::NEG_INFINITY));
            let low = points.iter().map(values).fold(low, f64::min);
            let high = points.iter().map(values).fold(high, f64::max);
            let margin = if high > low { 0.05 * (high - low) } else { 0.5 };
            match (low <= high, ground) {
                (false, _) => 0.0..1.0,
                (true, None) => low - margin..high + margin,
                (true, Some(_)) => low..high,
            }
        };
        let across = bounds(self.ground.as_ref().map(|ground| ground.across), &|point| point.0);
        let up = bounds(self.ground.as_ref().map(|ground| ground.up), &|point| point.1);
        // A legend that would hide something stands beside the plot.
        let has_legend = self.series.len() > 1 && !self.is_crowded();
        let corner = self.empty_corner(&across, &up, area.dim_in_pixel().1.saturating_sub(AROUND));
        let longest = self
            .series
            .iter()
            .map(|series| series.name.chars().count())
            .max()
            .unwrap_or(0) as u32;
        let beside = if has_legend && corner.is_none() {
            LEGEND_MARK + LETTER * longest
        } else {
            0
        };
        let mut chart = ChartBuilder::on(area)
            .caption(&self.title, ("sans-serif", 18))
            .margin(12)
            .margin_right(12 + beside)
            .x_label_area_size(42)
            .y_label_area_size(58)
            .build_cartesian_2d(across.clone(), up.clone())?;
        let upwards = |y: &f64| match self.log {
            true => format!("{:.0e}", 10f64.powf(*y)),
            false => short(*y),
        };
        chart
            .configure_mesh()
            .x_desc(&self.x_axis)
            .y_desc(&self.y_axis)
            .light_line_style(WHITE)
            .x_label_formatter(&|x| short(*x))
            .y_label_formatter(&upwards)
            .x_labels(8)
            .y_labels(8)
            .draw()?;
        if let Some(ground) = &self.ground {
            chart.draw_series(ground.tiles())?;
        }
        for (number, series) in self.series.iter().enumerate() {
            let colour = Colours::pick(number).to_rgba();
            let thick = colour.stroke_width(2);
            let shown = self.shown(series);
            let drawn = match series.style {
                // A line through one point is that point.
                Style::Line | Style::Dashed if shown.clone().count() == 1 => {
                    chart.draw_series(shown.map(|at| Circle::new(at, 3, colour.filled())))?
                }
                Style::Line => chart.draw_series(LineSeries::new(shown, thick))?,
                Style::Dashed => chart.draw_series(DashedLineSeries::new(shown, DASH, SPACE, thick))?,
                Style::Dots => {
                    let radius = if self.is_crowded() { 2 } else { 3 };
                    chart.draw_series(shown.map(|at| Circle::new(at, radius, colour.filled())))?
                }
            };
            let style = series.style;
            drawn.label(&series.name).legend(move |at| style.mark(at, colour));
        }
        if self.is_crowded() {
            let centred = Pos::new(HPos::Center, VPos::Center);
            chart.draw_series(self.names().into_iter().map(|(at, number)| {
                let colour = Colours::pick(number).to_rgba();
                let style = ("sans-serif", 16).into_font().color(&WHITE).pos(centred);
                EmptyElement::at(at)
                    + Circle::new((0, 0), 11, WHITE.filled())
                    + Circle::new((0, 0), 10, colour.filled())
                    + Text::new(self.series[number].name.clone(), (0, 1), style)
            }))?;
        } else if let Some(corner) = corner.filter(|_| has_legend) {
            chart
                .configure_series_labels()
                .position(corner)
                .border_style(BLACK.mix(0.3))
                .background_style(WHITE.mix(0.8))
                .draw()?;
        } else if has_legend {
            self.names_beside(area, beside)?;
        }
        Ok(())
    }

    /// The legend in a margin of that width on the right.
    fn names_beside(&self, area: &Area<'_>, width: u32) -> Result<(), Failure> {
        let left = (area.dim_in_pixel().0 - width) as i32;
        for (number, series) in self.series.iter().enumerate() {
            let colour = Colours::pick(number).to_rgba();
            let middle = 48 + number as i32 * LEGEND_LINE as i32;
            area.draw(&series.style.mark((left, middle), colour))?;
            let style = ("sans-serif", 12)
                .into_font()
                .color(&BLACK)
                .pos(Pos::new(HPos::Left, VPos::Center));
            area.draw(&Text::new(series.name.clone(), (left + 26, middle), style))?;
        }
        Ok(())
    }
}

/// The height of a line of a legend, in pixels.
const LEGEND_LINE: u32 = 16;
/// What stands before a name in a legend, and behind it.
const LEGEND_MARK: u32 = 38;
/// The length of a dash and of the space behind it.
const DASH: u32 = 5;
const SPACE: u32 = 4;
/// The width of a letter in a legend.
const LETTER: u32 = 7;
/// What the title and the names of the axis across take of a chart's height, margins included.
const AROUND: u32 = 90;

/// Ten colours that can be told apart, and from white: those of Matplotlib.
struct Colours;

impl Palette for Colours {
    const COLORS: &'static [(u8, u8, u8)] = &[
        (31, 119, 180),
        (255, 127, 14),
        (44, 160, 44),
        (214, 39, 40),
        (148, 103, 189),
        (140, 86, 75),
        (227, 119, 194),
        (127, 127, 127),
        (188, 189, 34),
        (23, 190, 207),
    ];
}

type Area<'a> = DrawingArea<SVGBackend<'a>, plotters::coord::Shift>;
type Failure = DrawingAreaErrorKind<std::io::Error>;

impl Ground {
    /// The fields in tints of eight steps, neighbours of the same tint in one.
    fn tiles(&self) -> impl Iterator<Item = Rectangle<(f64, f64)>> + '_ {
        let step = |(low, high): (f64, f64)| (high - low) / self.side.max(1) as f64;
        let (width, height) = (step(self.across), step(self.up));
        let level = |value: &f64| (value.clamp(0.0, 1.0) * 8.0).round() / 8.0;
        let rows = self.values.chunks(self.side.max(1)).enumerate();
        rows.flat_map(move |(row, values)| {
            let low = self.up.0 + row as f64 * height;
            let mut left = self.across.0;
            values.chunk_by(move |a, b| level(a) == level(b)).map(move |same| {
                let value = level(&same[0]);
                let (colour, share) = if value >= 0.5 { (1, value) } else { (0, 1.0 - value) };
                let right = left + same.len() as f64 * width;
                let corners = [(left, low), (right, low + height)];
                left = right;
                Rectangle::new(corners, Colours::pick(colour).mix(0.35 * share).filled())
            })
        })
    }
}

/// A number on an axis: whole ones without a fraction, since epochs and steps are counted.
fn short(x: f64) -> String {
    match x {
        x if (x - x.round()).abs() < 1e-9 => format!("{x:.0}"),
        x if x.abs() < 0.01 => format!("{x:.0e}"),
        x if x.abs() < 1.0 => format!("{x:.2}"),
        x => format!("{x:.2}").trim_end_matches('0').to_owned(),
    }
}

/// Draws charts side by side, `columns` in a row.
///
/// # Errors
/// If the file cannot be written.
pub fn charts(path: &Path, columns: usize, charts: &[Chart]) -> Result<(), Error> {
    let columns = columns.clamp(1, charts.len().max(1));
    let rows = charts.len().div_ceil(columns);
    let (width, height) = if charts.len() == 1 { (720, 420) } else { (440, 340) };
    let mut svg = String::new();
    let drawn = (|| {
        let size = (width * columns as u32, height * rows.max(1) as u32);
        let area = SVGBackend::with_string(&mut svg, size).into_drawing_area();
        area.fill(&WHITE)?;
        let parts = area.split_evenly((rows.max(1), columns));
        charts
            .iter()
            .zip(&parts)
            .try_for_each(|(chart, part)| chart.draw(part))?;
        area.present()
    })();
    drawn.map_err(|reason: Failure| Error::file(path, reason))?;
    write_whole(path, |file| file.write_all(svg.as_bytes()))
}

/// Draws lines over a common axis.
///
/// # Errors
/// If the file cannot be written.
pub fn curves(path: &Path, title: &str, x_axis: &str, y_axis: &str, series: &[Series]) -> Result<(), Error> {
    charts(path, 1, &[Chart::new(title, x_axis, y_axis, series.to_vec())])
}

/// A small grey picture.
#[derive(Clone, Debug, PartialEq)]
pub struct Picture {
    /// Rows of pixels.
    pub height: usize,
    /// Pixels in a row.
    pub width: usize,
    /// The pixels, row by row: 0 is black, 1 white, what lies beyond is cut off.
    pub pixels: Vec<f32>,
    /// What stands below it.
    pub caption: String,
}

impl Picture {
    /// A picture whose least value is black and whose greatest is white.
    pub fn stretched(height: usize, width: usize, values: &[f32], caption: String) -> Picture {
        let low = values.iter().copied().fold(f32::INFINITY, f32::min);
        let high = values.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let span = if high > low { high - low } else { 1.0 };
        Picture {
            height,
            width,
            pixels: values.iter().map(|value| (value - low) / span).collect(),
            caption,
        }
    }

    fn png(&self) -> Result<Vec<u8>, String> {
        let bytes = self
            .pixels
            .iter()
            .map(|pixel| (pixel.clamp(0.0, 1.0) * 255.0).round() as u8)
            .collect();
        let image = GrayImage::from_raw(self.width as u32, self.height as u32, bytes)
            .ok_or_else(|| format!("{} pixels are not {}×{}", self.pixels.len(), self.height, self.width))?;
        // Enlarged here, for not every viewer heeds the style that asks for sharp pixels.
        let factor = TILE.div_ceil(self.height.max(self.width).max(1)) as u32;
        let (width, height) = (image.width() * factor, image.height() * factor);
        let image = resize(&image, width, height, FilterType::Nearest);
        let mut png = Cursor::new(Vec::new());
        DynamicImage::ImageLuma8(image)
            .write_to(&mut png, ImageFormat::Png)
            .map_err(|reason| reason.to_string())?;
        Ok(png.into_inner())
    }
}

/// The side of a picture in a gallery, in the SVG's units.
const TILE: usize = 72;
/// The height of a caption.
const CAPTION: usize = 18;
/// The distance between pictures, and around them.
const GAP: usize = 8;

/// Draws pictures side by side, `columns` in a row, enlarged without smoothing.
///
/// # Errors
/// If the file cannot be written, or a picture has not as many pixels as it says.
pub fn gallery(path: &Path, title: &str, columns: usize, pictures: &[Picture]) -> Result<(), Error> {
    let columns = columns.max(1).min(pictures.len().max(1));
    let captions = pictures.iter().any(|picture| !picture.caption.is_empty());
    let step = TILE + GAP + if captions { CAPTION } else { 0 };
    let width = GAP + columns * (TILE + GAP);
    let top = 34;
    let height = top + pictures.len().div_ceil(columns) * step + GAP;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" width=\"{width}\" height=\"{height}\" \
         font-family=\"sans-serif\">\n<rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n\
         <text x=\"{GAP}\" y=\"22\" font-size=\"15\">{}</text>\n",
        escaped(title)
    );
    for (number, picture) in pictures.iter().enumerate() {
        let (x, y) = (GAP + number % columns * (TILE + GAP), top + number / columns * step);
        let png = picture.png().map_err(|reason| Error::file(path, reason))?;
        svg += &format!(
            "<image x=\"{x}\" y=\"{y}\" width=\"{TILE}\" height=\"{TILE}\" style=\"image-rendering:pixelated\" \
             href=\"data:image/png;base64,{}\"/>\n",
            STANDARD.encode(png)
        );
        if captions {
            svg += &format!(
                "<text x=\"{}\" y=\"{}\" font-size=\"12\" text-anchor=\"middle\">{}</text>\n",
                x + TILE / 2,
                y + TILE + 13,
                escaped(&picture.caption)
            );
        }
    }
    svg += "</svg>\n";
    write_whole(path, |file| file.write_all(svg.as_bytes()))
}

/// Text as it may stand in SVG and HTML.
pub(super) fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The legend stands in a corner as long as no line goes through it, and beside the plot where lines go through all four.
    #[test]
    fn legends_hide_nothing() {
        let range = 0.0..1.0;
        let place = |points: &[(f64, f64)]| {
            let series = ["a", "b"].map(|name| Series::line(name, points.to_vec()));
            Chart::new("", "", "", series.to_vec()).empty_corner(&range, &range, 300)
        };
        assert!(matches!(
            place(&[(0.0, 0.0), (1.0, 0.1)]),
            Some(SeriesLabelPosition::UpperRight)
        ));
        // No point of this line is in a corner, but the line is.
        assert!(matches!(
            place(&[(0.5, 1.0), (1.0, 0.5)]),
            Some(SeriesLabelPosition::LowerRight)
        ));
        assert!(place(&[(0.0, 0.0), (1.0, 1.0), (0.0, 1.0), (1.0, 0.0)]).is_none());
    }

    /// In the plot and in the legend, in a corner of the plot or beside it, where no corner is empty.
    #[test]
    fn dashed_lines_are_dashed_everywhere() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("dashed.svg");
        let crossing = vec![(0.0, 0.0), (1.0, 1.0), (0.0, 1.0), (1.0, 0.0)];
        for points in [vec![(0.0, 0.0), (1.0, 0.1)], crossing] {
            let series = ["a", "b"].map(|name| Series::dashed(name, points.clone()));
            curves(&path, "", "", "", &series).unwrap();
            let svg = std::fs::read_to_string(&path).unwrap();
            let blue = svg
                .lines()
                .filter(|line| line.contains("<polyline") && line.contains("#1F77B4"));
            let length = |line: &str| {
                let (_, points) = line.split_once(" points=\"").unwrap();
                let at = |point: &str| {
                    point
                        .split_once(',')
                        .map(|(x, y)| [x, y].map(|at| at.parse::<f64>().unwrap()))
                };
                let ends: Vec<_> = points.split(' ').map_while(at).collect();
                let (from, to) = (ends[0], ends[ends.len() - 1]);
                (to[0] - from[0]).hypot(to[1] - from[1])
            };
            let longest = blue.map(length).fold(0.0, f64::max);
            assert!(longest > 0.0 && longest < f64::from(DASH + 3), "{longest}\n{svg}");
        }
    }

    #[test]
    fn a_line_of_one_point_is_seen() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("point.svg");
        curves(&path, "", "", "", &[Series::counted("a", [0.5])]).unwrap();
        let text = std::fs::read_to_string(path).unwrap();
        assert!(text.contains("<circle"), "{text}");
    }
}
