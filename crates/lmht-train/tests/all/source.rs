//! Sources of batches: every image in its place, and an epoch that can begin in its middle.

use candle_core::{DType, Device, Tensor};
use lmht_train::{Batch, BatchSource, Result, Targets, TensorSource};

const CPU: Device = Device::Cpu;

/// `n` images `[n, 1, 1, 2]`: image `i` holds `i` and `i + 1/2`, and is labelled `i`.
fn counted(n: usize) -> (Tensor, Tensor) {
    let pixels: Vec<f32> = (0..2 * n).map(|i| i as f32 / 2.).collect();
    let labels: Vec<u32> = (0..n as u32).collect();
    (Tensor::from_vec(pixels, (n, 1, 1, 2), &CPU).unwrap(), Tensor::from_vec(labels, n, &CPU).unwrap())
}

fn labels(batch: &Batch) -> Vec<u32> {
    match &batch.targets {
        Targets::Labels(labels) => labels.to_vec1().unwrap(),
        Targets::Distributions(_) => panic!("expected labels"),
    }
}

/// The labels of the batches, which must be those of their images.
fn read(source: &dyn BatchSource, epoch: usize, first: usize) -> Result<Vec<Vec<u32>>> {
    source
        .batches(epoch, first)?
        .map(|batch| {
            let batch = batch?;
            let labels = labels(&batch);
            let pixels: Vec<f32> = labels.iter().flat_map(|&i| [i as f32, i as f32 + 0.5]).collect();
            assert_eq!(batch.images.dims(), [labels.len(), 1, 1, 2]);
            assert_eq!(batch.images.flatten_all()?.to_vec1::<f32>()?, pixels, "images and labels are out of step");
            Ok(labels)
        })
        .collect()
}

#[test]
fn an_epoch_resumed_in_its_middle_has_the_same_batches() -> Result<()> {
    let (images, labels) = counted(23);
    for source in [
        TensorSource::train(images.clone(), labels.clone(), 4, 9)?,
        TensorSource::test(images.clone(), labels.clone(), 4)?,
    ] {
        for epoch in [0, 3] {
            let whole = read(&source, epoch, 0)?;
            assert_eq!(whole.len(), source.n_batches());
            for first in 0..=source.n_batches() {
                assert_eq!(read(&source, epoch, first)?, whole[first..], "epoch {epoch} from {first}");
            }
        }
    }
    Ok(())
}

#[test]
fn training_shuffles_by_seed_and_epoch_and_drops_the_rest() -> Result<()> {
    let (images, labels) = counted(23);
    let source = TensorSource::train(images.clone(), labels.clone(), 4, 9)?;
    let epoch = read(&source, 0, 0)?;
    assert!(epoch.len() == 5 && epoch.iter().all(|batch| batch.len() == 4), "{epoch:?}");
    let mut seen = epoch.concat();
    seen.sort_unstable();
    seen.dedup();
    assert_eq!(seen.len(), 20, "an image came twice");
    assert_ne!(epoch, read(&source, 1, 0)?, "two epochs are alike");
    assert_ne!(epoch, read(&TensorSource::train(images, labels, 4, 10)?, 0, 0)?, "two seeds are alike");
    Ok(())
}

#[test]
fn testing_takes_every_image_in_order() -> Result<()> {
    let (images, labels) = counted(10);
    let source = TensorSource::test(images.clone(), labels.clone(), 4)?;
    let expected = [vec![0, 1, 2, 3], vec![4, 5, 6, 7], vec![8, 9]];
    for epoch in 0..2 {
        assert_eq!(read(&source, epoch, 0)?, expected);
    }
    assert_eq!(read(&TensorSource::test(images, labels, 99)?, 0, 0)?, [(0..10).collect::<Vec<_>>()]);
    let empty =
        TensorSource::test(Tensor::zeros((0, 1, 1, 2), DType::F32, &CPU)?, Tensor::zeros(0, DType::U32, &CPU)?, 4)?;
    assert_eq!(empty.n_batches(), 0);
    Ok(())
}

/// Frames are time first: the images are counted by the second dimension.
#[test]
fn frames_keep_their_timesteps() -> Result<()> {
    let (images, labels) = counted(6);
    let frames = Tensor::stack(&[&images, &(&images + 100.)?, &(&images + 200.)?], 0)?;
    for source in [
        TensorSource::train(frames.clone(), labels.clone(), 4, 1)?,
        TensorSource::test(frames.clone(), labels.clone(), 4)?,
    ] {
        for batch in source.batches(0, 0)? {
            let batch = batch?;
            let labels = self::labels(&batch);
            assert_eq!(batch.images.dims(), [3, labels.len(), 1, 1, 2]);
            for (t, frame) in batch.images.flatten_from(1)?.to_vec2::<f32>()?.iter().enumerate() {
                let expected: Vec<f32> =
                    labels.iter().flat_map(|&i| [0., 0.5].map(|half| 100. * t as f32 + i as f32 + half)).collect();
                assert_eq!(*frame, expected, "timestep {t}");
            }
        }
    }
    Ok(())
}

#[test]
fn tensors_that_do_not_fit_are_named() -> Result<()> {
    let (images, labels) = counted(10);
    let train = |images: &Tensor, labels: &Tensor, batch_size| {
        TensorSource::train(images.clone(), labels.clone(), batch_size, 1).unwrap_err().to_string()
    };
    let message = train(&images, &labels, 11);
    assert!(message.contains("batch_size is 11") && message.contains("at most 10"), "{message}");
    assert!(train(&images, &labels, 0).contains("batch_size is 0"));
    let message = train(&images, &labels.narrow(0, 0, 9)?, 4);
    assert!(message.contains("shape [10]") && message.contains("[9]"), "{message}");
    assert!(train(&images, &labels.to_dtype(DType::I64)?, 4).contains("I64"));
    let message = train(&images.flatten_all()?, &labels, 4);
    assert!(message.contains("[N, C, H, W]") && message.contains("[20]"), "{message}");
    Ok(())
}

#[cfg(feature = "datasets")]
mod loader {
    use lmht_datasets::{ImageDataset, Loader, LoaderConfig, Mix, Normalize};
    use lmht_train::{Error, FirstImages};

    use super::*;

    /// `n` images of one byte, labelled by their number.
    fn loader(n: usize, config: &LoaderConfig) -> Loader {
        let data = ImageDataset::new(vec![0; n], (0..n as u32).collect(), (1, 1, 1), n).unwrap();
        Loader::new(data.into(), config, &Normalize::unit(1), &CPU).unwrap()
    }

    fn read(source: &dyn BatchSource, epoch: usize, first: usize) -> Result<Vec<Vec<u32>>> {
        source.batches(epoch, first)?.map(|batch| Ok(labels(&batch?))).collect()
    }

    #[test]
    fn a_loader_gives_the_order_of_tensors_in_memory() -> Result<()> {
        let (images, labels) = counted(23);
        let tensors = TensorSource::train(images, labels, 4, 9)?;
        let loader = loader(23, &LoaderConfig::train(4, 9));
        assert_eq!(BatchSource::n_batches(&loader), tensors.n_batches());
        for (epoch, first) in [(0, 0), (3, 0), (3, 2)] {
            assert_eq!(read(&loader, epoch, first)?, super::read(&tensors, epoch, first)?);
        }
        Ok(())
    }

    #[test]
    fn mixed_batches_have_distributions() -> Result<()> {
        let mix = Some(Mix::default());
        let loader = loader(8, &LoaderConfig { mix, ..LoaderConfig::train(4, 1) });
        for batch in BatchSource::batches(&loader, 0, 0)? {
            let Targets::Distributions(targets) = batch?.targets else { panic!("expected distributions") };
            assert_eq!(targets.dims(), [4, 8]);
            for row in targets.to_vec2::<f32>()? {
                assert!((row.iter().sum::<f32>() - 1.).abs() < 1e-6, "{row:?}");
            }
        }
        Ok(())
    }

    #[test]
    fn the_first_images_are_cut_from_the_loaders_batches() -> Result<()> {
        let loader = loader(10, &LoaderConfig::eval(4));
        let all = [vec![0, 1, 2, 3], vec![4, 5, 6, 7], vec![8, 9]];
        for (n_images, expected) in [
            (0, vec![]),
            (3, vec![vec![0, 1, 2]]),
            (4, vec![all[0].clone()]),
            (6, vec![all[0].clone(), vec![4, 5]]),
            (10, all.to_vec()),
            (usize::MAX, all.to_vec()),
        ] {
            let first = FirstImages::new(&loader, n_images);
            assert_eq!(first.n_batches(), expected.len(), "{n_images} images");
            for start in 0..=expected.len() {
                assert_eq!(read(&first, 0, start)?, expected[start..], "{n_images} images from {start}");
            }
        }
        Ok(())
    }

    #[test]
    fn a_data_sets_error_keeps_its_words() {
        let loader = loader(10, &LoaderConfig::eval(4));
        let error = BatchSource::batches(&loader, 0, 9).err().expect("there is no batch 9");
        assert!(matches!(&error, Error::Data(_)), "{error:?}");
        assert_eq!(error.to_string(), loader.epoch_from(0, 9).unwrap_err().to_string());
    }
}
