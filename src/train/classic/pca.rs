//! Principal component analysis: the linear code that loses least, in the sense of squares.
//!
//! K. Pearson, "On lines and planes of closest fit to systems of points in space", 1901. The eigenvectors are nalgebra's.

use nalgebra::{DMatrix, DVector, SymmetricEigen};
use netloom_ir::Tensor;

use super::rows;
use crate::error::Error;

/// The mean of some examples, and the directions in which they vary most.
#[derive(Clone, Debug, PartialEq)]
pub struct Pca {
    /// A column of means.
    mean: DVector<f64>,
    /// A column for each direction, of length 1 and orthogonal to the others.
    directions: DMatrix<f64>,
    variances: Vec<f64>,
}

impl Pca {
    /// The `size` directions in which `data`, `[n, …]`, varies most; their sign is such that the greatest element is positive.
    ///
    /// # Errors
    /// If there are no examples, or fewer values in each than directions are asked for.
    pub fn fit(data: &Tensor, size: usize) -> Result<Pca, Error> {
        let (count, width) = rows(data)?;
        if size > width {
            let message = format!("examples of {width} values have at most {width} principal components, not {size}");
            return Err(Error::Usage(message));
        }
        let mut centred = matrix(data, count, width);
        let mean = centred.row_mean().transpose();
        for mut row in centred.row_iter_mut() {
            row -= mean.transpose();
        }
        let covariance = centred.transpose() * &centred / count as f64;
        let eigen = SymmetricEigen::new(covariance);
        let mut order: Vec<usize> = (0..width).collect();
        order.sort_by(|&a, &b| eigen.eigenvalues[b].total_cmp(&eigen.eigenvalues[a]));
        order.truncate(size);
        let columns: Vec<DVector<f64>> = order
            .iter()
            .map(|&at| {
                let column = eigen.eigenvectors.column(at);
                column * column[column.iamax()].signum()
            })
            .collect();
        Ok(Pca {
            mean,
            directions: DMatrix::from_iterator(width, size, columns.iter().flat_map(|column| column.iter().copied())),
            variances: order.iter().map(|&at| eigen.eigenvalues[at].max(0.0)).collect(),
        })
    }

    /// The variance along each direction, greatest first.
    pub fn variances(&self) -> &[f64] {
        &self.variances
    }

    /// The codes of examples `[n, …]`: `[n, size]`.
    ///
    /// # Errors
    /// If the examples are not like those it was fitted to.
    pub fn encode(&self, data: &Tensor) -> Result<Tensor, Error> {
        let (count, width) = self.checked(data, self.mean.len())?;
        let mut centred = matrix(data, count, width);
        for mut row in centred.row_iter_mut() {
            row -= self.mean.transpose();
        }
        Ok(tensor(&(centred * &self.directions)))
    }

    /// The examples that codes `[n, size]` stand for: `[n, values]`.
    ///
    /// # Errors
    /// If the codes have another size.
    pub fn decode(&self, codes: &Tensor) -> Result<Tensor, Error> {
        let (count, size) = self.checked(codes, self.variances.len())?;
        let mut decoded = matrix(codes, count, size) * self.directions.transpose();
        for mut row in decoded.row_iter_mut() {
            row += self.mean.transpose();
        }
        Ok(tensor(&decoded))
    }

    fn checked(&self, data: &Tensor, wanted: usize) -> Result<(usize, usize), Error> {
        match rows(data)? {
            (count, width) if width == wanted => Ok((count, width)),
            _ => Err(Error::Usage(format!(
                "principal components: rows of {wanted} values are needed, found {}",
                data.ty()
            ))),
        }
    }
}

fn matrix(data: &Tensor, count: usize, width: usize) -> DMatrix<f64> {
    DMatrix::from_row_iterator(count, width, data.to_f32().into_iter().map(f64::from))
}

fn tensor(matrix: &DMatrix<f64>) -> Tensor {
    // nalgebra stores columns, tensors rows.
    let elements: Vec<f32> = matrix.transpose().iter().map(|&x| x as f32).collect();
    Tensor::from_f32([matrix.nrows(), matrix.ncols()], &elements)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Points on a line in space, a little beside it: `(t, 2t, 2t)` has direction `(1, 2, 2) / 3`.
    #[test]
    fn it_finds_the_line_that_points_lie_along() {
        let points: Vec<f32> = (0..50)
            .flat_map(|at| {
                let (t, off) = (at as f32 / 10.0, if at % 2 == 0 { 0.01 } else { -0.01 });
                [t + 1.0, 2.0 * t + off, 2.0 * t - off]
            })
            .collect();
        let data = Tensor::from_f32([50, 3], &points);
        let pca = Pca::fit(&data, 1).unwrap();
        let codes = pca.encode(&data).unwrap();
        assert_eq!(codes.shape(), [50, 1]);
        let step = codes.to_f32()[1] - codes.to_f32()[0];
        assert!((step - 0.3).abs() < 1e-3, "{step}");
        let back = pca.decode(&codes).unwrap().to_f32();
        assert!(back.iter().zip(&points).all(|(a, b)| (a - b).abs() < 0.011));
        // As many directions as values lose nothing.
        let all = Pca::fit(&data, 3).unwrap();
        let back = all.decode(&all.encode(&data).unwrap()).unwrap().to_f32();
        assert!(back.iter().zip(&points).all(|(a, b)| (a - b).abs() < 1e-5));
        assert!(all.variances().is_sorted_by(|a, b| a >= b));
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let data = Tensor::from_f32([2, 3], &[0.0; 6]);
        assert!(Pca::fit(&data, 4).unwrap_err().to_string().contains("at most 3"));
        let pca = Pca::fit(&data, 2).unwrap();
        let message = pca.decode(&data).unwrap_err().to_string();
        assert!(message.contains("rows of 2 values"), "{message}");
        assert!(Pca::fit(&Tensor::from_f32([0, 3], &[]), 1).is_err());
    }
}
