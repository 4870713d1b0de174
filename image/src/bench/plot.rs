//! Curves as SVG for the documentation: what was measured over how many machines, or how much is there over time.
//!
//! The drawing is plotters' work. Text is left to whoever shows the file, so no fonts are needed here.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use plotters::coord::ranged1d::ValueFormatter;
use plotters::prelude::*;
use serde::Serialize;

/// Size of every plot in pixels: the width of a page of the README.
const SIZE: (u32, u32) = (860, 460);

/// A logarithmic axis over this factor or more has a mark at every power of ten, one over less at every doubling.
const DECADES_FROM: f64 = 200.0;

/// How far from black and white; each line takes the next, and they differ in lightness too.
const COLOURS: [RGBColor; 6] = [
    RGBColor(0, 98, 177),
    RGBColor(213, 94, 0),
    RGBColor(0, 140, 90),
    RGBColor(150, 60, 140),
    RGBColor(110, 110, 110),
    RGBColor(190, 150, 0),
];

/// An axis.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Axis {
    /// What it counts, with the unit.
    pub name: String,
    /// From where.
    pub least: f64,
    /// To where.
    pub greatest: f64,
}

impl Axis {
    /// What it counts by when it counts by factors.
    fn base(&self) -> f64 {
        let is_short = self.greatest / self.least < DECADES_FROM;
        if is_short { 2.0 } else { 10.0 }
    }

    /// An axis that shows all of `values`: from nothing, or, on a logarithmic one, from the least of them.
    fn over(name: &str, values: impl Iterator<Item = f64>, logarithmic: bool) -> Self {
        let (least, greatest) = values.fold((f64::INFINITY, f64::NEG_INFINITY), |(a, b), value| {
            (a.min(value), b.max(value))
        });
        let least = if logarithmic { least } else { 0.0 };
        Self {
            name: name.to_owned(),
            least,
            greatest,
        }
    }
}

/// One curve.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Curve {
    /// Whose.
    pub name: String,
    /// Its points, from left to right.
    pub points: Vec<(f64, f64)>,
    /// A bound or a goal: drawn thinner, without marks.
    pub bound: bool,
}

/// Curves over the same axes.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Plot {
    /// The file's name without its ending; also how the documentation calls it.
    pub file: String,
    /// What is shown.
    pub title: String,
    /// To the right.
    pub across: Axis,
    /// Upwards.
    pub up: Axis,
    /// Both axes count by factors, not by steps.
    pub logarithmic: bool,
    /// The curves.
    pub curves: Vec<Curve>,
}

impl Plot {
    /// Curves over axes that fit them.
    ///
    /// # Errors
    /// When there is nothing to draw, or a value is no number, or none that a logarithmic axis can show.
    pub fn new(
        file: &str,
        title: &str,
        axes: [&str; 2],
        logarithmic: bool,
        curves: Vec<Curve>,
    ) -> Result<Self> {
        let points = || curves.iter().flat_map(|curve| &curve.points);
        ensure!(
            points().count() > 1,
            "the plot {file} has not enough points"
        );
        for (x, y) in points() {
            let fits = |value: f64| value.is_finite() && (!logarithmic || value > 0.0);
            ensure!(
                fits(*x) && fits(*y),
                "the plot {file} cannot show ({x}, {y})"
            );
        }
        Ok(Self {
            file: file.to_owned(),
            title: title.to_owned(),
            across: Axis::over(axes[0], points().map(|point| point.0), logarithmic),
            up: Axis::over(axes[1], points().map(|point| point.1), logarithmic),
            logarithmic,
            curves,
        })
    }

    /// The path of the drawing inside the checkout.
    pub fn path(&self) -> String {
        format!("docs/{}.svg", self.file)
    }

    /// The drawing.
    ///
    /// # Errors
    /// When it cannot be drawn.
    pub fn svg(&self) -> Result<String> {
        let mut text = String::new();
        {
            let area = SVGBackend::with_string(&mut text, SIZE).into_drawing_area();
            self.draw(&area)
                .with_context(|| format!("cannot draw {}", self.file))?;
        }
        if !text.ends_with('\n') {
            text.push('\n');
        }
        Ok(text)
    }

    /// Writes the drawing into the checkout at `root`.
    ///
    /// # Errors
    /// When it cannot be drawn or written.
    pub fn write(&self, root: &Path) -> Result<()> {
        let path = root.join(self.path());
        std::fs::write(&path, self.svg()?)
            .with_context(|| format!("cannot write {}", path.display()))
    }

    fn draw(&self, area: &DrawingArea<SVGBackend<'_>, plotters::coord::Shift>) -> Result<()> {
        area.fill(&WHITE)?;
        let mut builder = ChartBuilder::on(area);
        builder
            .caption(&self.title, ("sans-serif", 18))
            .margin(12)
            .x_label_area_size(44)
            .y_label_area_size(64);
        let (across, up) = (
            self.across.least..self.across.greatest,
            self.up.least..self.up.greatest,
        );
        if self.logarithmic {
            let across = across.log_scale().base(self.across.base());
            let up = up.log_scale().base(self.up.base());
            self.lines(builder.build_cartesian_2d(across, up)?)
        } else {
            self.lines(builder.build_cartesian_2d(across, up)?)
        }
    }

    fn lines<'a, X, Y>(
        &self,
        mut chart: ChartContext<'a, SVGBackend<'a>, Cartesian2d<X, Y>>,
    ) -> Result<()>
    where
        X: Ranged<ValueType = f64> + ValueFormatter<f64>,
        Y: Ranged<ValueType = f64> + ValueFormatter<f64>,
    {
        chart
            .configure_mesh()
            .x_desc(&self.across.name)
            .y_desc(&self.up.name)
            .x_label_formatter(&|value| number(*value))
            .y_label_formatter(&|value| number(*value))
            .light_line_style(TRANSPARENT)
            .draw()?;
        for (curve, colour) in self.curves.iter().zip(COLOURS.iter().cycle()) {
            let style = colour.stroke_width(if curve.bound { 1 } else { 2 });
            let line = LineSeries::new(curve.points.iter().copied(), style);
            chart
                .draw_series(line)?
                .label(&curve.name)
                .legend(move |(x, y)| PathElement::new([(x, y), (x + 18, y)], style));
        }
        chart
            .configure_series_labels()
            .position(SeriesLabelPosition::UpperLeft)
            .background_style(WHITE.mix(0.85))
            .border_style(RGBColor(200, 200, 200))
            .draw()?;
        Ok(())
    }
}

/// A number beside an axis, without digits that say nothing.
fn number(value: f64) -> String {
    if value >= 10.0 || value.fract().abs() < 1e-9 {
        format!("{value:.0}")
    } else {
        format!("{value:.1}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plot(points: &[(f64, f64)], logarithmic: bool) -> Result<Plot> {
        let curve = Curve {
            name: "one & all".into(),
            points: points.to_vec(),
            bound: false,
        };
        Plot::new(
            "name",
            "Title",
            ["clients", "seconds"],
            logarithmic,
            vec![curve],
        )
    }

    #[test]
    fn a_plot_shows_title_axes_and_curves_and_is_the_same_each_time() {
        for logarithmic in [false, true] {
            let plot = plot(&[(1.0, 5.0), (2.0, 10.0), (32.0, 160.0)], logarithmic).unwrap();
            let svg = plot.svg().unwrap();
            for part in [
                "<svg",
                "Title",
                "clients",
                "seconds",
                "one &amp; all",
                "</svg>",
            ] {
                assert!(svg.contains(part), "{part}: {svg}");
            }
            assert_eq!(svg, plot.svg().unwrap());
        }
    }

    #[test]
    fn what_cannot_be_shown_is_refused() {
        assert!(plot(&[], false).is_err());
        assert!(plot(&[(1.0, 1.0), (2.0, f64::NAN)], false).is_err());
        assert!(plot(&[(0.0, 1.0), (2.0, 3.0)], true).is_err());
        assert!(plot(&[(0.0, 1.0), (2.0, 3.0)], false).is_ok());
    }

    #[test]
    fn numbers_have_no_idle_digits() {
        let check = |value, expected: &str| assert_eq!(number(value), expected);
        check(16.0, "16");
        check(1.5, "1.5");
        check(2.0, "2");
        check(90.25, "90");
    }
}
