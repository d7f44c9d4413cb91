//! Pictures in folders, one folder a class.

use std::path::{Path, PathBuf};

use image::imageops::FilterType;
use netloom_ir::Tensor;

use super::dataset::Dataset;
use crate::error::Error;

/// Colours of a picture.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Colours {
    /// One channel.
    Grey,
    /// Red, green, blue.
    Rgb,
}

/// Reads PNG and JPEG files: every folder in `folder` is a class, every file in it a picture of it, both in the order of their names.
/// Pictures are scaled to `[height, width]` and become `f32` in [0, 1], `[n, channels, height, width]`. With them come the classes' names.
///
/// # Errors
/// If a folder cannot be read, a class is empty, or a picture does not decode; with the file.
pub fn read_folders(folder: &Path, size: [usize; 2], colours: Colours) -> Result<(Dataset, Vec<String>), Error> {
    let classes: Vec<PathBuf> = entries(folder)?.into_iter().filter(|path| path.is_dir()).collect();
    if classes.is_empty() {
        return Err(Error::file(folder, "there is no folder in it; each class needs one"));
    }
    let (mut values, mut labels) = (Vec::new(), Vec::new());
    for (label, class) in classes.iter().enumerate() {
        let files: Vec<PathBuf> = entries(class)?.into_iter().filter(|path| is_picture(path)).collect();
        if files.is_empty() {
            return Err(Error::file(class, "there is no .png or .jpg file in it"));
        }
        for file in files {
            values.extend(read_picture(&file, size, colours)?);
            labels.push(label as i64);
        }
    }
    let channels = if colours == Colours::Rgb { 3 } else { 1 };
    let inputs = Tensor::from_f32([labels.len(), channels, size[0], size[1]], &values);
    let name = |path: &PathBuf| path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let names = classes.iter().map(name).collect();
    Ok((Dataset::new(inputs, Tensor::from_i64([labels.len()], &labels))?, names))
}

/// One picture, `[channels, height, width]` in [0, 1].
///
/// # Errors
/// If the file cannot be read or does not decode.
pub fn read_picture(file: &Path, size: [usize; 2], colours: Colours) -> Result<Vec<f32>, Error> {
    let [height, width] = size;
    let picture = image::open(file).map_err(|reason| Error::file(file, reason))?;
    let picture = picture.resize_exact(width as u32, height as u32, FilterType::Triangle);
    let (bytes, channels) = match colours {
        Colours::Grey => (picture.to_luma8().into_raw(), 1),
        Colours::Rgb => (picture.to_rgb8().into_raw(), 3),
    };
    let plane = |channel: usize| bytes.iter().skip(channel).step_by(channels);
    Ok((0..channels)
        .flat_map(plane)
        .map(|&byte| f32::from(byte) / 255.0)
        .collect())
}

fn entries(folder: &Path) -> Result<Vec<PathBuf>, Error> {
    let fail = |reason: std::io::Error| Error::file(folder, reason);
    let listed = std::fs::read_dir(folder).map_err(fail)?;
    let mut paths = listed
        .map(|entry| Ok(entry?.path()))
        .collect::<Result<Vec<PathBuf>, std::io::Error>>()
        .map_err(fail)?;
    paths.sort();
    Ok(paths)
}

fn is_picture(path: &Path) -> bool {
    let ending = path.extension().map(|ending| ending.to_string_lossy().to_lowercase());
    ending.is_some_and(|ending| ["png", "jpg", "jpeg"].contains(&ending.as_str()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_are_classes() {
        let folder = tempfile::tempdir().unwrap();
        for (class, grey) in [("b", 255u8), ("a", 0)] {
            std::fs::create_dir(folder.path().join(class)).unwrap();
            let picture = image::RgbImage::from_pixel(6, 4, image::Rgb([grey, 51, 0]));
            picture.save(folder.path().join(class).join("1.png")).unwrap();
        }
        let (data, names) = read_folders(folder.path(), [2, 3], Colours::Rgb).unwrap();
        assert_eq!(
            (names, data.targets.to_i64()),
            (vec!["a".to_owned(), "b".to_owned()], vec![0, 1])
        );
        assert_eq!(data.inputs.shape(), [2, 3, 2, 3]);
        let values = data.inputs.to_f32();
        assert_eq!((values[0], values[6], values[18], values[35]), (0.0, 0.2, 1.0, 0.0));

        let broken = folder.path().join("a").join("2.jpg");
        std::fs::write(&broken, b"no picture").unwrap();
        let message = read_folders(folder.path(), [2, 3], Colours::Grey)
            .unwrap_err()
            .to_string();
        assert!(message.contains("2.jpg"), "{message}");
        std::fs::create_dir(folder.path().join("c")).unwrap();
        std::fs::remove_file(broken).unwrap();
        let message = read_folders(folder.path(), [2, 3], Colours::Grey)
            .unwrap_err()
            .to_string();
        assert!(message.ends_with("there is no .png or .jpg file in it"), "{message}");
    }
}
