package main

import (
	"bytes"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/xenferry/xenferry/savefmt"
	"github.com/xenferry/xenferry/scripts/bench/image"
)

// BenchmarkCodecs encodes and decodes an image like that of the benchmark, on
// one connection, with the zstd that the build has: what is in Go's folder
// stands in for QEMU's. Besides what testing prints it tells how many MB are
// done in one second of CPU time: what else the machine does changes that less.
func BenchmarkCodecs(b *testing.B) {
	batches := codecBatches(b, 256<<20)
	raw := 0
	for _, batch := range batches {
		raw += len(batch)
	}
	for _, name := range []string{"s2", "zstd:-3", "zstd:1", "zstd:2", "zstd:3", "zstd:6", "zstd-long"} {
		m, err := savefmt.ParseMethod(name)
		if err != nil && strings.Contains(name, "-") { // libzstd alone has those
			continue
		}
		if err != nil {
			b.Fatal(err)
		}
		enc, err := savefmt.NewEncoder(m, 2)
		if err != nil {
			b.Fatal(err)
		}
		encoded, ends := make([]byte, 0, raw+len(batches)*4096), make([]int, len(batches))
		b.Run("encode/"+name, func(b *testing.B) {
			b.ReportAllocs()
			start := cpuTime([]int{os.Getpid()})
			for b.Loop() {
				enc.Reset()
				encoded = encoded[:0]
				for i, batch := range batches {
					if encoded, err = enc.Encode(encoded, batch); err != nil {
						b.Fatal(err)
					}
					ends[i] = len(encoded)
				}
			}
			reportSpeed(b, raw, start)
			b.ReportMetric(float64(raw)/float64(len(encoded)), "ratio")
		})
		b.Run("decode/"+name, func(b *testing.B) { benchmarkDecode(b, m, batches, encoded, ends) })
	}
}

// benchmarkDecode decodes what was encoded, each batch up to its end.
func benchmarkDecode(b *testing.B, m savefmt.Method, batches [][]byte, encoded []byte, ends []int) {
	dec, err := savefmt.NewDecoder(m.Codec, 2)
	if err != nil {
		b.Fatal(err)
	}
	room, into, raw := make([]byte, savefmt.MaxPayload), make([][]byte, 1), 0
	for _, batch := range batches {
		raw += len(batch)
	}
	b.ReportAllocs()
	start := cpuTime([]int{os.Getpid()})
	for b.Loop() {
		at := 0
		for i, batch := range batches {
			into[0] = room[:len(batch)]
			if err := dec.Decode(into, encoded[at:ends[i]], m.Whole() || i == 0); err != nil {
				b.Fatal(err)
			}
			at = ends[i]
		}
	}
	reportSpeed(b, raw, start)
}

// reportSpeed tells how fast raw bytes of pages went, each time, since start.
func reportSpeed(b *testing.B, raw int, start time.Duration) {
	b.SetBytes(int64(raw))
	cpu := cpuTime([]int{os.Getpid()}) - start
	b.ReportMetric(float64(raw)*float64(b.N)/1e6/cpu.Seconds(), "MB/CPU-s")
}

// codecBatches makes an image of size bytes, and returns its pages that are not
// zero in batches as a connection has them.
func codecBatches(b *testing.B, size int) (batches [][]byte) {
	from, err := image.GoSources()
	if err != nil {
		b.Fatal(err)
	}
	mem := make([]byte, size)
	if _, err = image.Fill(mem, from); err != nil {
		b.Fatal(err)
	}
	const page = 4096
	zero := make([]byte, page)
	for ; len(mem) > 0; mem = mem[savefmt.MaxPayload:] {
		var batch []byte
		for at := 0; at < savefmt.MaxPayload; at += page {
			if p := mem[at : at+page]; !bytes.Equal(p, zero) {
				batch = append(batch, p...)
			}
		}
		if len(batch) > 0 {
			batches = append(batches, batch)
		}
	}
	return batches
}
