package main

import (
	"fmt"
	"io"
	"os"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/xenferry/xenferry/savefmt"
)

func convertCommand() *cli.Command {
	return &cli.Command{
		Name:      "convert",
		Usage:     "turn a stock save file into a compressed container, or back",
		ArgsUsage: "<from> <to>",
		Description: "What is converted is verified on the way; <to> gets its name only when all was\n" +
			"right. The way back gives the stock file byte for byte. Both may be -, for\n" +
			"standard input and output: xenferry convert db1.xfs - | xl restore /dev/stdin",
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "to", Usage: "`format` of <to>: stock or container; default: what <from> is not"},
			&cli.StringFlag{Name: "codec", Value: savefmt.BlockS2.String(), Usage: "compress with `codec`: s2, zstd or zlib"},
			jsonFlag,
		},
		OnUsageError: usageError,
		Action:       convert,
	}
}

// The formats that convert can write.
const (
	formatStock     = "stock"
	formatContainer = "container"
)

func convert(c *cli.Context) error {
	if c.NArg() != 2 {
		return usagef("convert takes <from> <to>, not %d arguments (see xenferry convert --help)", c.NArg())
	}
	codec, err := savefmt.ParseBlockCodec(c.String("codec"))
	if err != nil {
		return usagef("--codec: %v", err)
	}
	format := c.String("to")
	if format != "" && format != formatStock && format != formatContainer {
		return usagef("--to %q: it is %s or %s", format, formatStock, formatContainer)
	}
	from, name := c.Args().Get(0), c.Args().Get(1)
	in, closeIn, err := openSaved(c.Context, from)
	if err != nil {
		return err
	}
	defer closeIn()
	to, discard, err := openTarget(c.Context, name)
	if err != nil {
		return err
	}
	defer discard()
	begun := time.Now()
	sum, written, err := convertTo(to, in, format, codec)
	if err == nil {
		err = to.Commit()
	}
	if err != nil {
		return fmt.Errorf("convert %s: %w", from, err)
	}
	out := c.App.Writer
	if name == pipeName {
		out = os.Stderr
	}
	if c.Bool(jsonFlag.Name) {
		return encodeEnd(out, "convert", map[string]any{"summary": sum, "written": written, "total_ns": time.Since(begun)})
	}
	fmt.Fprintf(out, "%s: %s as %s, %s written to %s in %s\n", from, bytesText(uint64(sum.Bytes)), sum.Format,
		bytesText(uint64(written)), name, time.Since(begun).Round(time.Millisecond))
	return nil
}

// convertTo verifies a saved guest while it is written in another format.
func convertTo(to io.Writer, in io.Reader, format string, codec savefmt.BlockCodec) (*savefmt.Summary, int64, error) {
	plain, box, err := savefmt.Unpack(in)
	if err != nil {
		return nil, 0, err
	}
	if box != nil {
		defer box.Close()
	}
	if format == "" {
		format = formatContainer
		if box != nil {
			format = formatStock
		}
	}
	if format == formatStock {
		sum, err := savefmt.Verify(io.TeeReader(plain, to))
		return sum, sum.Bytes, err
	}
	packer := savefmt.NewPacker(to, codec)
	sum, err := savefmt.Verify(io.TeeReader(plain, packer))
	if err != nil {
		packer.Abort()
		return sum, 0, err
	}
	err = packer.Close()
	return sum, packer.Written(), err
}
