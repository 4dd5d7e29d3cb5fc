//! Decompression bombs: a kilobyte of a page can promise, or become, gigabytes. The headers of the pages are read before a
//! page is decompressed (the thrift compact protocol, as far as the format's `PageHeader` needs it).

use std::fs::File;
use std::io::{self, BufReader, Read, Seek, SeekFrom};

use ::parquet::basic::Compression;
use ::parquet::file::metadata::ColumnChunkMetaData;

/// Bytes that any page may become.
const MAX_PAGE: u64 = 1 << 27;
/// Bytes that a byte of a larger page may become: images are compressed already.
const MAX_RATIO: u64 = 100;
/// Bytes of a header; it may hold the smallest and the largest value.
const MAX_HEADER: u64 = 1 << 24;

/// Holds what the pages of a column of a row group promise, and where the codec does not stop there, what they become,
/// against the limits.
pub(super) fn check(file: &File, column: &ColumnChunkMetaData) -> io::Result<()> {
    let (start, length) = column.byte_range();
    let size = file.metadata()?.len();
    let end =
        start.checked_add(length).filter(|end| *end <= size).ok_or_else(|| bad("its pages end behind the file"))?;
    let mut file = BufReader::new(file);
    let mut at = start;
    while at < end {
        file.seek(SeekFrom::Start(at))?;
        let mut header = Thrift { source: (&mut file).take(MAX_HEADER), depth: 0 };
        let page = header.page()?;
        at += MAX_HEADER - header.source.limit();
        let most = MAX_PAGE.max(page.compressed.saturating_mul(MAX_RATIO));
        if page.uncompressed > most {
            let Page { uncompressed, compressed, .. } = page;
            return Err(bad(format!("{compressed} bytes of a page promise {uncompressed}, more than {most}")));
        }
        if page.is_compressed {
            let mut body = (&mut file).take(page.compressed);
            io::copy(&mut (&mut body).take(page.levels), &mut io::sink())?;
            let promised = page.uncompressed.saturating_sub(page.levels);
            // The other codecs write no further than what the header promises.
            let became = match column.compression() {
                Compression::GZIP(_) => count(flate2::read::MultiGzDecoder::new(body), promised)?,
                Compression::BROTLI(_) => count(brotli_decompressor::Decompressor::new(body, 1 << 12), promised)?,
                _ => 0,
            };
            if became > promised {
                return Err(bad(format!("a page promises {promised} bytes and becomes more")));
            }
        }
        at = at.checked_add(page.compressed).ok_or_else(|| bad("its pages end behind the file"))?;
    }
    Ok(())
}

/// Bytes that come, at most one more than promised.
fn count(decoder: impl Read, promised: u64) -> io::Result<u64> {
    io::copy(&mut decoder.take(promised.saturating_add(1)), &mut io::sink())
}

fn bad(words: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, words.into())
}

/// What a page's header says.
struct Page {
    uncompressed: u64,
    compressed: u64,
    /// Bytes of levels before what is compressed.
    levels: u64,
    is_compressed: bool,
}

/// A reader of the compact protocol.
struct Thrift<R> {
    source: R,
    depth: usize,
}

/// A field's number and what of it is of use.
type Field = (i16, i64);

impl<R: Read> Thrift<R> {
    fn page(&mut self) -> io::Result<Page> {
        let mut second = Vec::new();
        // 8 is the header of a page of the second version.
        let fields = self.fields(&mut |id, thrift| {
            if id == 8 {
                second = thrift.fields(&mut |_, _| Ok(false))?;
            }
            Ok(id == 8)
        })?;
        let get = |fields: &[Field], wanted| fields.iter().find(|(id, _)| *id == wanted).map(|(_, value)| *value);
        let size = |fields: &[Field], wanted| {
            let value = get(fields, wanted).and_then(|value| u64::try_from(value).ok());
            value.ok_or_else(|| bad("the header of a page has no size"))
        };
        let levels = match second.is_empty() {
            true => 0,
            false => size(&second, 5)? + size(&second, 6)?,
        };
        let is_compressed = get(&second, 7) != Some(0);
        Ok(Page { uncompressed: size(&fields, 2)?, compressed: size(&fields, 3)?, levels, is_compressed })
    }

    /// The fields of a structure that are numbers or flags; `visit` may read one that is a structure itself.
    fn fields(&mut self, visit: &mut dyn FnMut(i16, &mut Self) -> io::Result<bool>) -> io::Result<Vec<Field>> {
        let (mut fields, mut id) = (Vec::new(), 0i16);
        loop {
            let byte = self.byte()?;
            if byte == 0 {
                return Ok(fields);
            }
            id = match byte >> 4 {
                0 => self.zigzag()? as i16,
                step => id.wrapping_add(i16::from(step)),
            };
            match byte & 15 {
                1 => fields.push((id, 1)),
                2 => fields.push((id, 0)),
                4..=6 => fields.push((id, self.zigzag()?)),
                12 if self.depth == 0 && visit(id, self)? => (),
                kind => self.skip(kind)?,
            }
        }
    }

    fn skip(&mut self, kind: u8) -> io::Result<()> {
        if self.depth > 8 {
            return Err(bad("the header of a page is nested too deeply"));
        }
        self.depth += 1;
        match kind {
            1 | 2 => (),
            3 => _ = self.byte()?,
            4..=6 => _ = self.zigzag()?,
            7 => self.pass(8)?,
            8 => {
                let length = self.varint()?;
                self.pass(length)?;
            }
            9 | 10 => {
                let byte = self.byte()?;
                let n = if byte >> 4 == 15 { self.varint()? } else { u64::from(byte >> 4) };
                for _ in 0..n {
                    // A flag in a list is a byte of its own.
                    self.skip(if matches!(byte & 15, 1 | 2) { 3 } else { byte & 15 })?;
                }
            }
            12 => _ = self.fields(&mut |_, _| Ok(false))?,
            _ => return Err(bad("the header of a page has a field of an unknown type")),
        }
        self.depth -= 1;
        Ok(())
    }

    fn pass(&mut self, n: u64) -> io::Result<()> {
        match io::copy(&mut (&mut self.source).take(n), &mut io::sink())? == n {
            true => Ok(()),
            false => Err(bad("the header of a page ends early")),
        }
    }

    fn byte(&mut self) -> io::Result<u8> {
        let mut byte = [0];
        self.source.read_exact(&mut byte)?;
        Ok(byte[0])
    }

    fn varint(&mut self) -> io::Result<u64> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            value |= u64::from(byte & 127) << shift;
            if byte < 128 {
                return Ok(value);
            }
        }
        Err(bad("the header of a page has a number of too many bytes"))
    }

    fn zigzag(&mut self) -> io::Result<i64> {
        let value = self.varint()?;
        Ok((value >> 1) as i64 ^ -((value & 1) as i64))
    }
}
