package image

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// listFiles returns the regular files under dirs that want accepts, in the
// order of the folders and of the names in each. Links are not followed.
func listFiles(dirs []string, want func(path string) (bool, error)) ([]string, error) {
	var paths []string
	for _, dir := range dirs {
		err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
			if err != nil || !d.Type().IsRegular() {
				return err
			}
			ok, err := want(path)
			if ok {
				paths = append(paths, path)
			}
			return err
		})
		if err != nil {
			return nil, fmt.Errorf("listing the files for the image: %w", err)
		}
	}
	return paths, nil
}

func isGoSource(path string) (bool, error) { return strings.HasSuffix(path, ".go"), nil }

// isProgram tells whether a file begins as an ELF file does.
func isProgram(path string) (bool, error) {
	f, err := os.Open(path)
	if err != nil {
		return false, err
	}
	defer f.Close()
	magic := make([]byte, 4)
	_, err = io.ReadFull(f, magic)
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return false, nil
	}
	return bytes.Equal(magic, []byte("\x7fELF")), err
}

// fileReader reads files one after the other as a page cache holds them.
type fileReader struct {
	paths []string
	file  []byte // what is left of the first one, whole pages
}

// read fills b, of whole pages, and returns how much it could: less than all
// when the last file has ended.
func (r *fileReader) read(b []byte) (n int, err error) {
	for n < len(b) {
		if len(r.file) == 0 {
			if len(r.paths) == 0 {
				return n, nil
			}
			if r.file, err = os.ReadFile(r.paths[0]); err != nil {
				return n, err
			}
			r.paths = r.paths[1:]
			if tail := len(r.file) % pageSize; tail != 0 {
				r.file = append(r.file, make([]byte, pageSize-tail)...)
			}
		}
		c := copy(b[n:], r.file)
		r.file = r.file[c:]
		n += c
	}
	return n, nil
}
