package filebackup

import (
	"context"
	"crypto/md5" //nolint:gosec // S3 wants it of what Object Lock keeps
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"hash"
	"io"
	"math/bits"
	"sync"

	stdbzip2 "compress/bzip2"

	"github.com/klauspost/compress/zstd"

	"sdbackup/filebackup/internal/secretstream"
)

const (
	minPart      = 5 << 20 // of S3, but for the last one
	maxParts     = 10000
	bufferBudget = 64 << 20 // bytes of all that is being read and sent
	maxSpare     = 16 << 20 // bytes that are kept for the next file
	partsAtOnce  = 4        // of one file, as far as there is memory
)

// md5Of is what S3 wants with a request that Object Lock applies to.
func md5Of(body []byte, wanted bool) string {
	if !wanted {
		return ""
	}
	sum := md5.Sum(body) //nolint:gosec // see above
	return base64.StdEncoding.EncodeToString(sum[:])
}

// budget bounds the memory of buffers, and keeps them for the next file.
type budget struct {
	mu    sync.Mutex
	freed sync.Cond
	used  int
	max   int
	free  [40][][]byte // by the logarithm of the size
	spare int          // bytes of them
}

func newBudget(max int) *budget {
	b := &budget{max: max}
	b.freed.L = &b.mu
	return b
}

// take returns a buffer of at least n bytes, as soon as there is memory for it. With wait false it is nil where there is none.
func (b *budget) take(n int, wait bool) []byte {
	class := max(16, bits.Len(uint(n-1)))
	size := 1 << class
	if class > 22 { // large ones are all of one size, and not to be rounded up
		size = (n + 4095) &^ 4095
	}
	b.mu.Lock()
	for b.used > 0 && b.used+size > b.max {
		if !wait {
			b.mu.Unlock()
			return nil
		}
		b.freed.Wait()
	}
	b.used += size
	var buf []byte
	if last := len(b.free[class]) - 1; last >= 0 {
		buf, b.free[class] = b.free[class][last], b.free[class][:last]
		b.spare -= cap(buf)
	}
	b.mu.Unlock()
	if cap(buf) >= size {
		return buf[:size]
	}
	return make([]byte, size)
}

// give returns a buffer.
func (b *budget) give(buf []byte) {
	if buf == nil {
		return
	}
	class := bits.Len(uint(len(buf) - 1))
	b.mu.Lock()
	b.used -= len(buf)
	if b.spare+cap(buf) <= maxSpare {
		b.free[class] = append(b.free[class], buf)
		b.spare += cap(buf)
	}
	b.mu.Unlock()
	b.freed.Broadcast()
}

// objectWriter makes the object of a file and stores it: as a whole where it fits into a part, else in parts that are sent while
// the next ones are made.
type objectWriter struct {
	ctx     context.Context
	s       *store
	budget  *budget
	key     string
	h       header
	stream  *secretstream.Writer
	perPart int // chunks
	begun   func(m *multipart) error

	buf    []byte
	text   int // where the text of the chunk that is being filled begins
	n      int // how much of it there is
	chunks int // that are complete in this part

	upload  *multipart
	number  int
	sending sync.WaitGroup
	slots   chan struct{} // of parts that are being sent
	mu      sync.Mutex
	err     error
}

// newObjectWriter begins an object for about size bytes.
func (s *store) newObjectWriter(ctx context.Context, b *budget, key string, h header, k *keys, size int64) *objectWriter {
	w := &objectWriter{ctx: ctx, s: s, budget: b, key: key, h: h, slots: make(chan struct{}, partsAtOnce)}
	w.perPart = max(1, (minPart+h.chunk-1)/h.chunk)
	if least := size/int64(maxParts-1)/int64(h.chunk) + 1; size > 0 && int64(w.perPart) < least {
		w.perPart = int(least)
	}
	start := secretstream.Headroom + frameSize + len(h.raw)
	var streamHeader [secretstream.HeaderSize]byte
	if h.encryption != nil {
		w.stream, streamHeader = secretstream.NewWriter(k.stream())
		start += secretstream.HeaderSize
	}
	chunks := min((size+int64(h.chunk)-1)/int64(h.chunk)+1, int64(w.perPart))
	room := min(size, int64(w.perPart)*int64(h.chunk)) + chunks*secretstream.Overhead + 64
	w.buf = b.take(start+int(room), true)
	p := appendFrame(w.buf[:secretstream.Headroom], h)
	if w.stream != nil {
		p = append(p, streamHeader[:]...)
	}
	w.text = len(p)
	if w.stream != nil {
		w.text++ // its tag
	}
	return w
}

// grow makes room for the chunk as a whole where the file turns out to be larger.
func (w *objectWriter) grow(n int) {
	need := w.text + n + secretstream.Overhead
	if need <= len(w.buf) {
		return
	}
	full := w.text + (w.perPart-w.chunks)*(w.h.chunk+secretstream.Overhead) + secretstream.Overhead
	bigger := make([]byte, max(need, min(2*len(w.buf), full)))
	copy(bigger, w.buf[:w.text+w.n])
	w.budget.mu.Lock()
	w.budget.used += len(bigger)
	w.budget.mu.Unlock()
	w.budget.give(w.buf)
	w.buf = bigger
}

// Write adds to the content.
func (w *objectWriter) Write(p []byte) (written int, err error) {
	for len(p) > 0 {
		if w.n == w.h.chunk {
			if err := w.next(); err != nil {
				return written, err
			}
		}
		n := min(len(p), w.h.chunk-w.n)
		w.grow(w.n + n)
		copy(w.buf[w.text+w.n:], p[:n])
		w.n += n
		p = p[n:]
		written += n
	}
	return written, nil
}

// readFrom adds what r has, without a copy, and tells h of it.
func (w *objectWriter) readFrom(r io.Reader, h hash.Hash, progress func(int)) (total int64, err error) {
	for {
		if w.n == w.h.chunk {
			var one [1]byte // whether this chunk is the last is known when there is more
			n, err := io.ReadFull(r, one[:])
			if n == 0 {
				if errors.Is(err, io.EOF) {
					err = nil
				}
				return total, err
			}
			_, _ = h.Write(one[:])
			if _, err := w.Write(one[:]); err != nil {
				return total, err
			}
			total++
			progress(1)
			continue
		}
		if w.text+w.n+secretstream.Overhead >= len(w.buf) {
			w.grow(min(w.h.chunk, max(w.n+1, 2*w.n)))
		}
		room := w.buf[w.text+w.n : min(w.text+w.h.chunk, len(w.buf)-secretstream.Overhead)]
		room = room[:min(len(room), 1<<20)]
		n, err := r.Read(room)
		_, _ = h.Write(room[:n])
		w.n += n
		total += int64(n)
		progress(n)
		if errors.Is(err, io.EOF) {
			return total, nil
		}
		if err != nil {
			return total, err
		}
		if w.ctx.Err() != nil {
			return total, context.Cause(w.ctx)
		}
	}
}

// seal ends the chunk that was filled.
func (w *objectWriter) seal(tag byte) (end int) {
	if w.stream == nil {
		return w.text + w.n
	}
	w.grow(w.n)
	w.stream.SealInPlace(w.buf, w.text, w.n, w.h.raw, tag)
	return w.text + w.n + secretstream.Overhead - 1
}

// next begins another chunk.
func (w *objectWriter) next() error {
	end := w.seal(secretstream.TagMessage)
	w.chunks++
	if w.chunks == w.perPart {
		return w.flush(end)
	}
	w.text, w.n = end, 0
	if w.stream != nil {
		w.text++
	}
	return nil
}

// flush sends a part and begins the next.
func (w *objectWriter) flush(end int) error {
	if w.upload == nil {
		var err error
		if w.upload, err = w.s.beginMultipart(w.ctx, w.key); err != nil {
			return err
		}
		if w.begun != nil {
			if err := w.begun(w.upload); err != nil {
				return err
			}
		}
	}
	if err := w.failure(); err != nil {
		return err
	}
	w.number++
	number, buf := w.number, w.buf
	w.slots <- struct{}{}
	send := func() error {
		defer func() { <-w.slots }()
		return w.s.putPart(w.ctx, w.upload, number, buf[secretstream.Headroom:end])
	}
	if other := w.budget.take(len(buf), false); other != nil {
		w.buf = other
		w.sending.Go(func() {
			w.fail(send())
			w.budget.give(buf)
		})
	} else if err := send(); err != nil { // there is no memory for another part
		return err
	}
	w.text, w.n, w.chunks = secretstream.Headroom, 0, 0
	if w.stream != nil {
		w.text++
	}
	return nil
}

func (w *objectWriter) fail(err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.err == nil {
		w.err = err
	}
}

func (w *objectWriter) failure() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.err
}

// finish stores the rest and returns the version.
func (w *objectWriter) finish() (id string, err error) {
	end := w.seal(secretstream.TagFinal)
	if w.upload == nil {
		return w.s.put(w.ctx, w.key, w.buf[secretstream.Headroom:end], true)
	}
	w.sending.Wait()
	if err := w.failure(); err != nil {
		return "", err
	}
	w.number++
	if err := w.s.putPart(w.ctx, w.upload, w.number, w.buf[secretstream.Headroom:end]); err != nil {
		return "", err
	}
	return w.s.completeMultipart(w.ctx, w.upload)
}

// close gives the memory back, and up what was not finished.
func (w *objectWriter) close(finished bool) {
	w.sending.Wait()
	w.budget.give(w.buf)
	w.buf = nil
	if w.upload != nil && !finished {
		_ = w.s.abortMultipart(context.WithoutCancel(w.ctx), w.key, w.upload.id) // else the next run does
	}
}

// encoders compress files; one is kept for each file at a time.
var encoders = sync.Pool{New: func() any {
	e, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithEncoderConcurrency(1), zstd.WithWindowSize(1<<20), zstd.WithLowerEncoderMem(true))
	if err != nil {
		panic(err) // the options are right
	}
	return e
}}

// contentReader returns the content of a file's object. It returns io.EOF only when all of it was there, as far as the object
// tells; the hash in the manifest tells more.
func contentReader(r io.Reader, keys func(header) (*keys, error)) (io.Reader, func(), error) {
	h, err := readFrame(r)
	if err != nil {
		return nil, nil, err
	}
	if h.chunk == 0 {
		return nil, nil, errors.New("it is no object of a file")
	}
	done := func() {}
	if h.encryption != nil {
		k, err := keys(h)
		if err != nil {
			return nil, nil, &otherError{err}
		}
		key, err := k.keyFor(h)
		if err != nil {
			return nil, nil, err
		}
		var start [secretstream.HeaderSize]byte
		if _, err := io.ReadFull(r, start[:]); err != nil {
			return nil, nil, cutOff(err)
		}
		c := &chunkReader{r: r, h: h, stream: secretstream.NewReader(key, &start), buf: *chunkBuffers.Get().(*[]byte)}
		r, done = c, func() {
			if len(c.buf) <= maxPooledChunk {
				chunkBuffers.Put(&c.buf)
			}
		}
	}
	switch h.compressed {
	case "bz2":
		r = stdbzip2.NewReader(r)
	case "zstd":
		d := decoders.Get().(*zstd.Decoder)
		if err := d.Reset(r); err != nil {
			done()
			return nil, nil, err
		}
		give := done
		r, done = d, func() {
			if d.Reset(nil) == nil {
				decoders.Put(d)
			}
			give() // when nothing reads into it any more
		}
	}
	return r, done, nil
}

// decoders decompress files.
var decoders = sync.Pool{New: func() any {
	d, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true), zstd.WithDecoderMaxWindow(64<<20))
	if err != nil {
		panic(err) // the options are right
	}
	return d
}}

const maxPooledChunk = 6 << 20

var chunkBuffers = sync.Pool{New: func() any { b := make([]byte, secretstream.Headroom+128<<10); return &b }}

// chunkReader decrypts a file's chunks.
type chunkReader struct {
	r      io.Reader
	h      header
	stream *secretstream.Reader
	buf    []byte
	text   []byte
	ended  bool
}

func (c *chunkReader) Read(p []byte) (int, error) {
	for len(c.text) == 0 {
		if err := c.next(); err != nil {
			return 0, err
		}
	}
	n := copy(p, c.text)
	c.text = c.text[n:]
	return n, nil
}

// next reads and decrypts a chunk. Its memory grows with what there is, for the header may promise anything.
func (c *chunkReader) next() error {
	want := c.h.chunk + secretstream.Overhead
	n := 0
	for n < want {
		if len(c.buf) == secretstream.Headroom+n {
			bigger := make([]byte, secretstream.Headroom+min(want, max(64<<10, 4*n)))
			copy(bigger, c.buf)
			c.buf = bigger
		}
		m, err := io.ReadFull(c.r, c.buf[secretstream.Headroom+n:min(len(c.buf), secretstream.Headroom+want)])
		n += m
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			break
		}
		if err != nil {
			return err
		}
	}
	if n == 0 {
		if c.h.final && !c.ended {
			return errTruncated
		}
		return io.EOF
	}
	if c.ended {
		return errors.New("something follows its end")
	}
	text, tag, err := c.stream.OpenInPlace(c.buf, secretstream.Headroom, n, c.h.raw)
	if err != nil {
		return err
	}
	c.text, c.ended = text, tag == secretstream.TagFinal
	return nil
}

// contentHash hashes what a reader has.
func contentHash(w io.Writer, r io.Reader) (sum Hash, n int64, err error) {
	h := sha256.New()
	buf := copyBuffers.Get().(*[]byte)
	defer copyBuffers.Put(buf)
	n, err = io.CopyBuffer(io.MultiWriter(h, struct{ io.Writer }{w}), struct{ io.Reader }{r}, *buf)
	h.Sum(sum[:0])
	return sum, n, err
}

var copyBuffers = sync.Pool{New: func() any { b := make([]byte, 256<<10); return &b }}

// mismatch says that the content is not what the manifest says.
func mismatch(e *Entry, sum Hash, n int64) error {
	if e.has&hasSize != 0 && n != e.Size {
		return fmt.Errorf("its content has %d bytes; the manifest says %d", n, e.Size)
	}
	if sum != e.Hash {
		return errors.New("its content is not that of the manifest: it was altered, or another object is in its place")
	}
	return nil
}

// otherError is one that is not the object's fault.
type otherError struct{ error }

func (e *otherError) Unwrap() error { return e.error }
