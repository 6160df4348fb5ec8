package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
)

// maxConfigFile bounds a configuration file in bytes.
const maxConfigFile = 1 << 20

// readConfig reads a guest's configuration from a file: the JSON form of
// libxl_domain_config as it is, anything else by xl's own parser, through
// `xl create --dryrun`.
func readConfig(ctx context.Context, path string) ([]byte, error) {
	in, err := openInput(ctx, path)
	if err != nil {
		return nil, fmt.Errorf("configuration: %w", err)
	}
	defer in.close()
	text, err := io.ReadAll(io.LimitReader(in, maxConfigFile+1))
	if err != nil {
		return nil, fmt.Errorf("configuration: %w", err)
	}
	if len(text) > maxConfigFile {
		return nil, fmt.Errorf("configuration %s: it has more than %d bytes, the limit", path, maxConfigFile)
	}
	if json.Valid(text) {
		return text, nil
	}
	file := path
	if !in.mode.IsRegular() { // what was read from it xl cannot read again
		if file, err = keepConfig(text); err != nil {
			return nil, fmt.Errorf("configuration %s: %w", path, err)
		}
		defer os.Remove(file)
	}
	var stderr bytes.Buffer
	cmd := exec.CommandContext(ctx, "xl", "create", "--quiet", "--dryrun", file)
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("configuration %s: xl cannot read it: %w: %s", path, err, bytes.TrimSpace(stderr.Bytes()))
	}
	return dryRunConfig(path, out)
}

// keepConfig writes a configuration to a file of its own, and returns its name.
func keepConfig(text []byte) (string, error) {
	f, err := os.CreateTemp("", "xenferry-config-")
	if err != nil {
		return "", err
	}
	_, err = f.Write(text)
	if err = errors.Join(err, f.Close()); err != nil {
		_ = os.Remove(f.Name())
	}
	return f.Name(), err
}

// dryRunConfig takes the configuration out of what `xl create --dryrun` prints:
// lines for people, then {"domid": …, "config": {…}} or the configuration alone.
func dryRunConfig(path string, out []byte) ([]byte, error) {
	start := bytes.IndexByte(out, '{')
	if start < 0 {
		return nil, fmt.Errorf("configuration %s: xl printed no configuration", path)
	}
	var wrapped struct {
		Config json.RawMessage `json:"config"`
	}
	var whole json.RawMessage
	if err := json.NewDecoder(bytes.NewReader(out[start:])).Decode(&whole); err != nil {
		return nil, fmt.Errorf("configuration %s: what xl printed is no JSON: %w", path, err)
	}
	if err := json.Unmarshal(whole, &wrapped); err == nil && wrapped.Config != nil {
		return wrapped.Config, nil
	}
	return whole, nil
}
