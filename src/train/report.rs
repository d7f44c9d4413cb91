//! Pictures of a training: curves, and galleries of small images. All are SVG files that need no font on the machine that writes them.

use std::io::{Cursor, Write};
use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use image::imageops::{FilterType, resize};
use image::{DynamicImage, GrayImage, ImageFormat};
use plotters::prelude::*;

use crate::error::Error;
use crate::formats::write_whole;

/// A line of a chart.
#[derive(Clone, Debug)]
pub struct Series {
    /// Its name in the legend.
    pub name: String,
    /// Its points, left to right; those that are no numbers are left out.
    pub points: Vec<(f64, f64)>,
}

/// Draws lines over a common axis.
///
/// # Errors
/// If the file cannot be written.
pub fn curves(path: &Path, title: &str, x_axis: &str, y_axis: &str, series: &[Series]) -> Result<(), Error> {
    let points: Vec<(f64, f64)> = series
        .iter()
        .flat_map(|line| &line.points)
        .copied()
        .filter(|(x, y)| x.is_finite() && y.is_finite())
        .collect();
    let bounds = |values: &dyn Fn(&(f64, f64)) -> f64| {
        let low = points.iter().map(values).fold(f64::INFINITY, f64::min);
        let high = points.iter().map(values).fold(f64::NEG_INFINITY, f64::max);
        let margin = if high > low { 0.05 * (high - low) } else { 0.5 };
        if points.is_empty() {
            0.0..1.0
        } else {
            low - margin..high + margin
        }
    };
    let (across, up) = (bounds(&|point| point.0), bounds(&|point| point.1));
    let mut svg = String::new();
    let drawn = (|| {
        let area = SVGBackend::with_string(&mut svg, (720, 420)).into_drawing_area();
        area.fill(&WHITE)?;
        let mut chart = ChartBuilder::on(&area)
            .caption(title, ("sans-serif", 20))
            .margin(12)
            .x_label_area_size(42)
            .y_label_area_size(58)
            .build_cartesian_2d(across, up)?;
        chart
            .configure_mesh()
            .x_desc(x_axis)
            .y_desc(y_axis)
            .light_line_style(WHITE)
            // Whole numbers without a fraction: what is counted are epochs and steps.
            .x_label_formatter(&|x| {
                if (x - x.round()).abs() < 1e-9 {
                    format!("{x:.0}")
                } else {
                    format!("{x:.1}")
                }
            })
            .draw()?;
        for (number, line) in series.iter().enumerate() {
            let colour = Palette99::pick(number).to_rgba();
            let shown = line
                .points
                .iter()
                .copied()
                .filter(|(x, y)| x.is_finite() && y.is_finite());
            chart
                .draw_series(LineSeries::new(shown, colour.stroke_width(2)))?
                .label(&line.name)
                .legend(move |(x, y)| PathElement::new([(x, y), (x + 18, y)], colour.stroke_width(2)));
        }
        if series.len() > 1 {
            chart
                .configure_series_labels()
                .border_style(BLACK.mix(0.3))
                .background_style(WHITE.mix(0.8))
                .draw()?;
        }
        area.present()
    })();
    drawn.map_err(|reason: DrawingAreaErrorKind<std::io::Error>| Error::file(path, reason))?;
    write_whole(path, |file| file.write_all(svg.as_bytes()))
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

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}
