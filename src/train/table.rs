//! Tables of numbers and words in CSV files.

use std::io::Read;
use std::path::Path;

use netloom_ir::Tensor;

use super::dataset::Dataset;
use crate::error::Error;

/// What the first line of a file is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Header {
    /// The first row.
    Absent,
    /// The names of the columns.
    Names,
    /// Neither: it is passed over.
    Ignored,
}

/// What a column is to a network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// Classes, counted from 0.
    Class,
    /// A quantity.
    Value,
}

/// The cells of a CSV file, with the lines they came from.
#[derive(Clone, Debug)]
pub struct Table {
    file: String,
    names: Vec<String>,
    rows: Vec<(u64, csv::StringRecord)>,
}

impl Table {
    /// Reads a file, gzip or not, whose cells this byte separates.
    ///
    /// # Errors
    /// If it cannot be read, is not UTF-8, has no row, or rows of different lengths; with the line.
    pub fn read(path: &Path, header: Header, separator: u8) -> Result<Table, Error> {
        let fail = |reason: std::io::Error| Error::file(path, reason);
        let mut bytes = std::fs::read(path).map_err(fail)?;
        if bytes.starts_with(&[0x1f, 0x8b]) {
            let mut unpacked = Vec::new();
            flate2::read::GzDecoder::new(bytes.as_slice())
                .read_to_end(&mut unpacked)
                .map_err(fail)?;
            bytes = unpacked;
        }
        Table::parse(&path.display().to_string(), &bytes, header, separator)
    }

    /// The same from the bytes of the file of that name.
    ///
    /// # Errors
    /// As [`Table::read`].
    pub fn parse(file: &str, bytes: &[u8], header: Header, separator: u8) -> Result<Table, Error> {
        let mut reader = csv::ReaderBuilder::new()
            .has_headers(false)
            .flexible(true)
            .delimiter(separator)
            .trim(csv::Trim::All)
            .from_reader(bytes);
        let mut rows = Vec::new();
        for record in reader.records() {
            let record = record.map_err(|reason| Error::file(file, reason))?;
            // The reader counts blank lines before a record as part of it.
            let start = record.position().map_or(0, |position| position.byte() as usize);
            let blank = bytes[start..].iter().take_while(|byte| matches!(byte, b'\n' | b'\r'));
            let blank = blank.filter(|byte| **byte == b'\n').count() as u64;
            rows.push((record.position().map_or(0, csv::Position::line) + blank, record));
        }
        let first = (header != Header::Absent && !rows.is_empty()).then(|| rows.remove(0).1);
        let Some(width) = rows.first().map(|(_, row)| row.len()) else {
            return Err(Error::file(file, "there is no row in it"));
        };
        let names: Vec<String> = match (header, first) {
            (Header::Names, Some(names)) => names.iter().map(str::to_owned).collect(),
            _ => (0..width).map(|column| column.to_string()).collect(),
        };
        match rows.iter().find(|(_, row)| row.len() != names.len()) {
            None => Ok(Table {
                file: file.to_owned(),
                names,
                rows,
            }),
            Some((line, row)) => {
                let (found, wanted) = (row.len(), names.len());
                let message = format!("line {line}: {found} cells, where there are {wanted} above it");
                Err(Error::file(file, message))
            }
        }
    }

    /// The columns' names; their numbers where the file has none.
    pub fn names(&self) -> &[String] {
        &self.names
    }

    /// The number of rows.
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// Whether there is none; no file that could be read is so.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// The words of the column of that name.
    ///
    /// # Errors
    /// If there is no such column.
    pub fn words(&self, column: &str) -> Result<Vec<&str>, Error> {
        let at = self.place(column)?;
        Ok(self.rows.iter().map(|(_, row)| &row[at]).collect())
    }

    /// The numbers of a column.
    ///
    /// # Errors
    /// If there is no such column, or a cell is empty or no finite number; with the line.
    pub fn numbers(&self, column: &str) -> Result<Vec<f32>, Error> {
        let at = self.place(column)?;
        self.rows
            .iter()
            .map(|(line, row)| self.number(*line, at, &row[at]))
            .collect()
    }

    /// The numbers of a column, `None` where a cell is empty.
    ///
    /// # Errors
    /// If there is no such column, or a cell is neither empty nor a finite number; with the line.
    pub fn numbers_with_gaps(&self, column: &str) -> Result<Vec<Option<f32>>, Error> {
        let at = self.place(column)?;
        let cell = |(line, row): &(u64, csv::StringRecord)| match &row[at] {
            "" => Ok(None),
            text => self.number(*line, at, text).map(Some),
        };
        self.rows.iter().map(cell).collect()
    }

    /// One column as the target, all others as `f32` inputs.
    ///
    /// # Errors
    /// If there is no such column, a cell is no finite number, or a class is no whole number from 0; with the line.
    pub fn dataset(&self, target: &str, is: Target) -> Result<Dataset, Error> {
        let place = self.place(target)?;
        let mut inputs = Vec::with_capacity(self.len() * self.names.len());
        for (line, row) in &self.rows {
            for (at, cell) in row.iter().enumerate().filter(|(at, _)| *at != place) {
                inputs.push(self.number(*line, at, cell)?);
            }
        }
        let inputs = Tensor::from_f32([self.len(), self.names.len() - 1], &inputs);
        let targets = match is {
            Target::Value => Tensor::from_f32([self.len(), 1], &self.numbers(target)?),
            Target::Class => {
                let label = |(line, row): &(u64, csv::StringRecord)| {
                    let wrong = || self.wrong(*line, place, &row[place], "a class, counted from 0");
                    row[place].parse::<u32>().map(i64::from).map_err(|_| wrong())
                };
                let labels = self.rows.iter().map(label).collect::<Result<Vec<i64>, Error>>()?;
                Tensor::from_i64([self.len()], &labels)
            }
        };
        Dataset::new(inputs, targets)
    }

    fn place(&self, column: &str) -> Result<usize, Error> {
        let found = self.names.iter().position(|name| name == column);
        found.ok_or_else(|| {
            let message = format!(
                "there is no column `{column}`; the columns are {}",
                self.names.join(", ")
            );
            Error::file(&self.file, message)
        })
    }

    fn number(&self, line: u64, at: usize, cell: &str) -> Result<f32, Error> {
        let number = cell.parse::<f32>().ok().filter(|number| number.is_finite());
        number.ok_or_else(|| self.wrong(line, at, cell, "a finite number"))
    }

    fn wrong(&self, line: u64, at: usize, cell: &str, wanted: &str) -> Error {
        let message = format!("line {line}, column `{}`: `{cell}` is not {wanted}", self.names[at]);
        Error::file(&self.file, message)
    }
}

/// The span of each input, from training data: scaling maps it onto [0, 1].
#[derive(Clone, Debug, PartialEq)]
pub struct Scaling {
    low: Vec<f32>,
    span: Vec<f32>,
}

impl Scaling {
    /// The least and the greatest value of each column of `[n, columns]`.
    pub fn of(inputs: &Tensor) -> Scaling {
        let width = inputs.shape()[1..].iter().product::<usize>();
        let (mut low, mut high) = (vec![f32::INFINITY; width], vec![f32::NEG_INFINITY; width]);
        for row in inputs.to_f32().chunks_exact(width.max(1)) {
            for (at, &value) in row.iter().enumerate() {
                low[at] = low[at].min(value);
                high[at] = high[at].max(value);
            }
        }
        // A column that never changes carries nothing; it becomes 0.
        let span = low
            .iter()
            .zip(&high)
            .map(|(low, high)| if high > low { high - low } else { 1.0 });
        Scaling {
            span: span.collect(),
            low,
        }
    }

    /// The data with scaled inputs.
    #[must_use]
    pub fn apply(&self, data: Dataset) -> Dataset {
        let width = self.low.len().max(1);
        let mut values = data.inputs.to_f32();
        for row in values.chunks_exact_mut(width) {
            for (at, value) in row.iter_mut().enumerate() {
                *value = (*value - self.low[at]) / self.span[at];
            }
        }
        let inputs = Tensor::from_f32(data.inputs.shape(), &values);
        Dataset { inputs, ..data }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str, header: Header) -> Result<Table, Error> {
        Table::parse("t.csv", text.as_bytes(), header, b',')
    }

    #[test]
    fn tables_are_data_sets() {
        let table = parse("a,b,class\n1, 2,0\n3,,1\n", Header::Names).unwrap();
        assert_eq!(table.numbers_with_gaps("b").unwrap(), [Some(2.0), None]);
        assert_eq!(table.words("class").unwrap(), ["0", "1"]);
        let table = parse("x\n1,2,0\n3,4,1\n", Header::Ignored).unwrap();
        let data = table.dataset("2", Target::Class).unwrap();
        assert_eq!(
            (data.inputs.to_f32(), data.targets.to_i64()),
            (vec![1.0, 2.0, 3.0, 4.0], vec![0, 1])
        );
        let scaled = Scaling::of(&data.inputs).apply(data);
        assert_eq!(scaled.inputs.to_f32(), [0.0, 0.0, 1.0, 1.0]);
    }

    #[test]
    fn wrong_cells_are_named_with_their_line() {
        let message = |table: Result<Table, Error>| match table.and_then(|table| table.dataset("1", Target::Class)) {
            Ok(data) => panic!("accepted: {data:?}"),
            Err(error) => error.to_string(),
        };
        for (text, wanted) in [
            ("1,0\n2\n", "t.csv: line 2: 1 cells, where there are 2 above it"),
            (
                "1,0\n\nnan,0\n",
                "t.csv: line 3, column `0`: `nan` is not a finite number",
            ),
            ("1,0\n,0\n", "t.csv: line 2, column `0`: `` is not a finite number"),
            (
                "1,-1\n",
                "t.csv: line 1, column `1`: `-1` is not a class, counted from 0",
            ),
            ("", "t.csv: there is no row in it"),
            ("1\n", "t.csv: there is no column `1`; the columns are 0"),
        ] {
            assert_eq!(message(parse(text, Header::Absent)), wanted);
        }
    }
}
