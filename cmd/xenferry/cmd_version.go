package main

import (
	"encoding/json"
	"fmt"
	"runtime"
	"runtime/debug"

	"github.com/urfave/cli/v2"

	"github.com/xenferry/xenferry/savefmt"
	"github.com/xenferry/xenferry/xen"
	"github.com/xenferry/xenferry/xen/record"
	"github.com/xenferry/xenferry/xen/xl"
)

// release is set by the Makefile from the version control system.
var release = ""

// version returns the release, or else what the Go toolchain knows.
func version() string {
	if release != "" {
		return release
	}
	if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "" {
		return info.Main.Version
	}
	return "(devel)"
}

type versionInfo struct {
	Version     string `json:"version"`
	ProtocolMin int    `json:"protocol_min"`
	ProtocolMax int    `json:"protocol_max"`
	Xen         string `json:"xen"` // the Xen release it was built for; empty: simulated hosts only
	Go          string `json:"go"`
	Zstd        string `json:"zstd"`    // what codes Zstandard: libzstd with its version, or "zstd in Go"
	AESGCM      string `json:"aes_gcm"` // what encrypts in TLS: libipsec-mb with its version, or "AES-GCM in Go"
}

func versionCommand() *cli.Command {
	return &cli.Command{
		Name:  "version",
		Usage: "print the version, the protocol versions, the Xen release that it was built for, and what does its zstd and AES-GCM",
		Flags: []cli.Flag{jsonFlag},
		Action: func(c *cli.Context) error {
			v := versionInfo{version(), xen.ProtocolMin, xen.ProtocolMax, xl.BuiltFor(), runtime.Version(), savefmt.ZstdLibrary(), record.Library()}
			if c.Bool(jsonFlag.Name) {
				return json.NewEncoder(c.App.Writer).Encode(v)
			}
			built := "built without Xen support: simulated hosts only"
			if v.Xen != "" {
				built = "built for Xen " + v.Xen
			}
			_, err := fmt.Fprintf(c.App.Writer, "xenferry %s, protocol %d to %d, %s, %s, %s, %s\n",
				v.Version, v.ProtocolMin, v.ProtocolMax, built, v.Zstd, v.AESGCM, v.Go)
			return err
		},
	}
}

var jsonFlag = &cli.BoolFlag{Name: "json", Usage: "print JSON, for programs"}
