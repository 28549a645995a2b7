import com.google.protobuf.ByteString;
import io.grpc.ManagedChannel;
import io.grpc.ManagedChannelBuilder;
import io.grpc.StatusRuntimeException;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.util.Collections;
import java.util.concurrent.TimeUnit;
import tensorflow.Tensor.TensorProto;
import tensorflow.TensorShape.TensorShapeProto;
import tensorflow.Types.DataType;
import tensorflow.serving.Model.ModelSpec;
import tensorflow.serving.Predict.PredictRequest;
import tensorflow.serving.Predict.PredictResponse;
import tensorflow.serving.PredictionServiceGrpc;

/** Sends one image to the digits model. */
public final class Client {
  private Client() {}

  public static void main(String[] arguments) throws InterruptedException {
    String address = arguments.length > 0 ? arguments[0] : "localhost:8500";
    ManagedChannel channel = ManagedChannelBuilder.forTarget(address).usePlaintext().build();
    try {
      PredictResponse response =
          PredictionServiceGrpc.newBlockingStub(channel)
              .withDeadlineAfter(10, TimeUnit.SECONDS)
              .predict(request());
      long label = response.getOutputsOrThrow("label").getInt64Val(0);
      float sure = Collections.max(response.getOutputsOrThrow("probabilities").getFloatValList());
      System.out.printf("a %d, %.0f%% sure%n", label, 100 * sure);
    } catch (StatusRuntimeException error) {
      System.err.println(error.getMessage());
      System.exit(1);
    } finally {
      channel.shutdown().awaitTermination(5, TimeUnit.SECONDS);
    }
  }

  private static PredictRequest request() {
    return PredictRequest.newBuilder()
        .setModelSpec(ModelSpec.newBuilder().setName("digits"))
        .putInputs("image", image())
        .build();
  }

  /** A stroke from top to bottom, of 8 by 8 pixels; the message takes little-endian numbers. */
  private static TensorProto image() {
    ByteBuffer pixels = ByteBuffer.allocate(64 * Float.BYTES).order(ByteOrder.LITTLE_ENDIAN);
    for (int y = 0; y < 8; y++) {
      for (int x = 0; x < 8; x++) {
        boolean ink = y > 0 && y < 7 && (x == 3 || x == 4);
        pixels.putFloat(ink ? 16 : 0);
      }
    }
    return TensorProto.newBuilder()
        .setDtype(DataType.DT_FLOAT)
        .setTensorShape(
            TensorShapeProto.newBuilder()
                .addDim(TensorShapeProto.Dim.newBuilder().setSize(1))
                .addDim(TensorShapeProto.Dim.newBuilder().setSize(64)))
        .setTensorContent(ByteString.copyFrom(pixels.flip()))
        .build();
  }
}
