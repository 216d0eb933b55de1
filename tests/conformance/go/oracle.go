// Oracle answers questions about trees, notes and tiles with golang.org/x/mod/sumdb, so that a test can compare.
// A question is a line of JSON on standard input, its answer a line of JSON on standard output.
package main

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
)

type question struct {
	Op      string
	Records [][]byte
	Proof   []tlog.Hash
	Size    int64
	Old     int64
	Index   int64
	Root    tlog.Hash
	OldRoot tlog.Hash
	Leaf    tlog.Hash
	Text    string
	Key     string
	Folder  string
}

type answer struct {
	OK     bool        `json:"ok"`
	Error  string      `json:"error"`
	Hashes []tlog.Hash `json:"hashes"`
	Text   string      `json:"text"`
}

// stored are the hashes of the tree that was grown last, in the order of tlog.StoredHashIndex.
type stored []tlog.Hash

func (s stored) ReadHashes(indexes []int64) ([]tlog.Hash, error) {
	found := make([]tlog.Hash, len(indexes))
	for i, at := range indexes {
		if at < 0 || at >= int64(len(s)) {
			return nil, errors.New("not stored")
		}
		found[i] = s[at]
	}
	return found, nil
}

var tree stored

func ask(q question) (a answer, err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("panic: %v", r)
		}
	}()
	switch q.Op {
	case "grow":
		a.Hashes, err = grow(q.Records)
	case "prove record":
		a.Hashes, err = tlog.ProveRecord(q.Size, q.Index, tree)
	case "prove tree":
		a.Hashes, err = tlog.ProveTree(q.Size, q.Old, tree)
	case "check record":
		err = tlog.CheckRecord(q.Proof, q.Size, q.Root, q.Index, q.Leaf)
	case "check tree":
		err = tlog.CheckTree(q.Proof, q.Size, q.Root, q.Old, q.OldRoot)
	case "open":
		a.Text, err = open(q.Text, q.Key)
	case "sign":
		a.Text, err = sign(q.Text, q.Key)
	case "tiles":
		a.Hashes, err = readTiles(q.Folder, q.Key)
	case "write tiles":
		err = writeTiles(q.Folder, q.Size)
	default:
		err = errors.New("unknown question")
	}
	return a, err
}

// grow makes a tree of the records and returns the roots of sizes 0 to their number.
func grow(records [][]byte) ([]tlog.Hash, error) {
	tree = nil
	roots := make([]tlog.Hash, 1, len(records)+1)
	for i, record := range records {
		hashes, err := tlog.StoredHashes(int64(i), record, tree)
		if err != nil {
			return nil, err
		}
		tree = append(tree, hashes...)
		root, err := tlog.TreeHash(int64(i)+1, tree)
		if err != nil {
			return nil, err
		}
		roots = append(roots, root)
	}
	return roots, nil
}

func open(text, key string) (string, error) {
	verifier, err := note.NewVerifier(key)
	if err != nil {
		return "", err
	}
	opened, err := note.Open([]byte(text), note.VerifierList(verifier))
	if err != nil {
		return "", err
	}
	return opened.Text, nil
}

func sign(text, key string) (string, error) {
	signer, err := note.NewSigner(key)
	if err != nil {
		return "", err
	}
	signed, err := note.Sign(&note.Note{Text: text}, signer)
	return string(signed), err
}

// writeTiles puts the tiles of the grown tree, also those of all its earlier sizes, into a folder.
func writeTiles(name string, size int64) error {
	for _, t := range tlog.NewTiles(8, 0, size) {
		data, err := tlog.ReadTileData(t, tree)
		if err != nil {
			return err
		}
		path := filepath.Join(name, where(t))
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(path, data, 0o644); err != nil {
			return err
		}
	}
	return nil
}

// where a tile lies by c2sp.org/tlog-tiles, which knows one height only.
func where(t tlog.Tile) string {
	return strings.Replace(strings.Replace(t.Path(), "tile/8/data/", "tile/entries/", 1), "tile/8/", "tile/", 1)
}

// folder reads tiles where c2sp.org/tlog-tiles puts them.
type folder string

func (f folder) Height() int                         { return 8 }
func (f folder) SaveTiles(_ []tlog.Tile, _ [][]byte) {}

func (f folder) ReadTiles(tiles []tlog.Tile) ([][]byte, error) {
	data := make([][]byte, len(tiles))
	for i, t := range tiles {
		read, err := os.ReadFile(filepath.Join(string(f), where(t)))
		if err != nil {
			return nil, err
		}
		data[i] = read
	}
	return data, nil
}

// readTiles opens the checkpoint, proves every leaf hash by the tiles, and compares the entries where there are any.
func readTiles(name, key string) ([]tlog.Hash, error) {
	signed, err := os.ReadFile(filepath.Join(name, "checkpoint"))
	if err != nil {
		return nil, err
	}
	text, err := open(string(signed), key)
	if err != nil {
		return nil, err
	}
	lines := strings.Split(text, "\n")
	size, err := strconv.ParseInt(lines[1], 10, 64)
	if err != nil {
		return nil, err
	}
	root, err := tlog.ParseHash(lines[2])
	if err != nil {
		return nil, err
	}
	indexes := make([]int64, size)
	for i := range indexes {
		indexes[i] = tlog.StoredHashIndex(0, int64(i))
	}
	reader := tlog.TileHashReader(tlog.Tree{N: size, Hash: root}, folder(name))
	leaves, err := reader.ReadHashes(indexes)
	if err != nil {
		return nil, err
	}
	// TileHashReader of x/mod 0.7 leaves a few tiles uncompared where several peaks lie in one tile.
	if got, err := rootOf(leaves); err != nil || got != root {
		return nil, errors.New("another root")
	}
	if _, err := os.Stat(filepath.Join(name, "tile", "entries")); err != nil {
		return leaves, nil
	}
	return leaves, compareEntries(name, leaves)
}

func rootOf(leaves []tlog.Hash) (tlog.Hash, error) {
	var all stored
	for i, leaf := range leaves {
		hashes, err := tlog.StoredHashesForRecordHash(int64(i), leaf, all)
		if err != nil {
			return tlog.Hash{}, err
		}
		all = append(all, hashes...)
	}
	return tlog.TreeHash(int64(len(leaves)), all)
}

func compareEntries(name string, leaves []tlog.Hash) error {
	for start := 0; start < len(leaves); start += 256 {
		width := 256
		if len(leaves)-start < width {
			width = len(leaves) - start
		}
		t := tlog.Tile{H: 8, L: -1, N: int64(start / 256), W: width}
		bundle, err := os.ReadFile(filepath.Join(name, where(t)))
		if err != nil {
			return err
		}
		for i := start; i < start+width; i++ {
			if len(bundle) < 2 || len(bundle)-2 < int(binary.BigEndian.Uint16(bundle)) {
				return errors.New("a bundle is too short")
			}
			end := 2 + int(binary.BigEndian.Uint16(bundle))
			if tlog.RecordHash(bundle[2:end]) != leaves[i] {
				return fmt.Errorf("entry %d has another hash", i)
			}
			bundle = bundle[end:]
		}
		if len(bundle) != 0 {
			return errors.New("a bundle is too long")
		}
	}
	return nil
}

func main() {
	in := bufio.NewReader(os.Stdin)
	out := json.NewEncoder(os.Stdout)
	for {
		line, err := in.ReadBytes('\n')
		if err != nil {
			return
		}
		var q question
		decoder := json.NewDecoder(bytes.NewReader(line))
		decoder.DisallowUnknownFields()
		if err := decoder.Decode(&q); err != nil {
			panic(err)
		}
		a, err := ask(q)
		a.OK = err == nil
		if err != nil {
			a.Error = err.Error()
		}
		if err := out.Encode(a); err != nil {
			panic(err)
		}
	}
}
